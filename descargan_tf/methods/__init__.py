"""The methods by name: a plain dict, one file each."""

import dataclasses
from collections.abc import Mapping

from descargan_tf.methods import two_statistics
from descargan_tf.methods.base import Method
from descargan_tf.methods.dcls import DCls, DClsSettings
from descargan_tf.methods.densenet169 import DenseNet169, DenseNet169Settings
from descargan_tf.methods.descargan import DeScarGAN, DeScarGANSettings
from descargan_tf.methods.descargan_program import ProgramDeScarGAN
from descargan_tf.methods.fpgan import FPGAN, FPGANSettings
from descargan_tf.methods.stargan import StarGAN, StarGANSettings
from descargan_tf.methods.two_statistics import TwoStatistics
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
# Of a method whose authors' program does otherwise than their paper, `--rules=program`.
PROGRAM_RULES = {DeScarGAN: ProgramDeScarGAN}
# Of a method of which there are weights with two kinds of statistics, `--batch_norm=two_kinds`.
TWO_KINDS = {DeScarGAN: TwoStatistics}


def setting_names(name: str) -> set[str]:
    """The flags that the method of a name uses."""
    return {field.name for field in dataclasses.fields(METHODS[name][1])}


def build(name: str, values: Mapping) -> Method:
    """A new method by name.

    Args:
        name: a key of METHODS.
        values: flags by name; those that are no setting of the method are left alone.
    """
    kind, settings = METHODS[name]
    if values.get("rules") == "program":
        kind = PROGRAM_RULES.get(kind, kind)
    if values.get("batch_norm") == two_statistics.NAME:
        kind = TWO_KINDS[kind]
    names = setting_names(name)
    return kind(settings(**{key: value for key, value in values.items() if key in names}))
