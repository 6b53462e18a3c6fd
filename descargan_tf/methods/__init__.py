"""The methods by name, one file each."""

import dataclasses
from collections.abc import Mapping

from descargan_tf.errors import UserError
from descargan_tf.methods.base import Method
from descargan_tf.methods.dcls import DCls, DClsSettings
from descargan_tf.methods.densenet169 import DenseNet169, DenseNet169Settings
from descargan_tf.methods.descargan import DeScarGAN, DeScarGANSettings
from descargan_tf.methods.descargan_program import ProgramDeScarGAN
from descargan_tf.methods.fpgan import FPGAN, FPGANSettings
from descargan_tf.methods.stargan import StarGAN, StarGANSettings
from descargan_tf.methods.vae import VAE, VAESettings
from descargan_tf.methods.vagan import VAGAN, VAGANSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One --method."""

    method: type[Method]
    settings: type  # a dataclass whose fields are flags, with the method's own defaults
    program: type[Method] | None = None  # `--rules=program`, where the authors' program does otherwise than their text

    @property
    def setting_names(self) -> set[str]:
        """The flags that the method uses."""
        return {field.name for field in dataclasses.fields(self.settings)}

    @property
    def defaults(self) -> dict:
        """The method's own values of the flags that it uses."""
        return {field.name: field.default for field in dataclasses.fields(self.settings)}


METHODS = {
    "descargan": Entry(method=DeScarGAN, settings=DeScarGANSettings, program=ProgramDeScarGAN),
    "stargan": Entry(method=StarGAN, settings=StarGANSettings),
    "fpgan": Entry(method=FPGAN, settings=FPGANSettings),
    "vagan": Entry(method=VAGAN, settings=VAGANSettings),
    "vae": Entry(method=VAE, settings=VAESettings),
    "densenet169": Entry(method=DenseNet169, settings=DenseNet169Settings),
    "dcls": Entry(method=DCls, settings=DClsSettings),
}


def entry(name: str) -> Entry:
    """The method of a name.

    Raises:
        UserError: there is none.
    """
    if name not in METHODS:
        raise UserError(f"--method={name} is not known; known are {', '.join(METHODS)}.")
    return METHODS[name]


def names_with(setting: str) -> str:
    """The methods that have a setting, for a message."""
    return ", ".join(name for name, other in METHODS.items() if setting in other.setting_names)


def unused_settings(name: str) -> set[str]:
    """Settings of other methods alone."""
    return set().union(*(other.setting_names for other in METHODS.values())) - entry(name).setting_names


def build(name: str, values: Mapping) -> Method:
    """A new method by name.

    Args:
        name: a key of METHODS.
        values: flags by name; those that are no setting of the method are left alone, None is the method's default.

    Raises:
        UserError: there is no such method, or it has not what else `values` ask for.
    """
    chosen = entry(name)
    kind = chosen.method
    if values.get("saliency", "none") != "none" and not kind.only_classifies:
        classifiers = ", ".join(name for name, other in METHODS.items() if other.method.only_classifies)
        raise UserError(
            f"--saliency={values['saliency']} is for methods that only classify ({classifiers}); --method={name} has "
            "maps of its own: leave it out."
        )
    if values.get("rules") == "program":
        kind = chosen.program or kind
    given = {key: value for key, value in values.items() if key in chosen.setting_names and value is not None}
    return kind(chosen.settings(**given))
