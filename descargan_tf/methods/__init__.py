"""The methods by name: a plain dict, one file each."""

from descargan_tf.methods.descargan import DeScarGAN, DeScarGANSettings

METHODS = {"descargan": (DeScarGAN, DeScarGANSettings)}
