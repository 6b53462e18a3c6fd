"""The methods by name: a plain dict, one file each."""

from descargan_tf.methods.dcls import DCls, DClsSettings
from descargan_tf.methods.densenet169 import DenseNet169, DenseNet169Settings
from descargan_tf.methods.descargan import DeScarGAN, DeScarGANSettings
from descargan_tf.methods.fpgan import FPGAN, FPGANSettings
from descargan_tf.methods.stargan import StarGAN, StarGANSettings
from descargan_tf.methods.vae import VAE, VAESettings
from descargan_tf.methods.vagan import VAGAN, VAGANSettings

METHODS = {
    "descargan": (DeScarGAN, DeScarGANSettings),
    "stargan": (StarGAN, StarGANSettings),
    "fpgan": (FPGAN, FPGANSettings),
    "vagan": (VAGAN, VAGANSettings),
    "vae": (VAE, VAESettings),
    "densenet169": (DenseNet169, DenseNet169Settings),
    "dcls": (DCls, DClsSettings),
}
