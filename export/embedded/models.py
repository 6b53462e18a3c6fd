"""Which versions of which models are served: loaded as they appear, swapped without a failed request, freed when idle.

A new version is loaded beside the old one; from then on new requests go to it, and the old one is freed after its last
request. A version that cannot be loaded changes nothing but the status.
"""

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from descargan_tf.errors import UserError
from descargan_tf.files import reason
from descargan_tf.server_flags import ServerFlags

from .servable import Servable
from .status import Code, ServingError, invalid, not_found
from .text_protos import parse_file

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A model and which of the numbered folders under its base path are served."""

    name: str
    base_path: Path
    latest: int | None = 1  # so many of the newest; None: all
    specific: tuple[int, ...] = ()  # these instead
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def wanted(self, found: set[int]) -> set[int]:
        """Those of the versions found that are to be served."""
        if self.specific:
            return found & set(self.specific)
        return set(sorted(found)[-self.latest :] if self.latest else found)


@dataclasses.dataclass(frozen=True)
class LoadSettings:
    """How folders are watched and loaded; names and defaults are TensorFlow Serving's."""

    poll_seconds: float = ServerFlags.file_system_poll_wait_seconds  # 0: look once
    config_poll_seconds: float = ServerFlags.model_config_file_poll_wait_seconds  # 0: read the file once
    retries: int = ServerFlags.max_num_load_retries  # of a version that cannot be loaded while running
    retry_seconds: float = ServerFlags.load_retry_interval_micros / 1e6
    warm_up: bool = ServerFlags.enable_model_warmup
    labels_for_unavailable: bool = ServerFlags.allow_version_labels_for_unavailable_models


class VersionStatus(NamedTuple):
    """START, LOADING, AVAILABLE, UNLOADING or END, and why a version that could not be loaded ended."""

    version: int
    state: str
    code: Code = Code.OK
    message: str = ""


@dataclasses.dataclass
class _Loaded:
    servable: Servable
    users: int = 0
    retired: bool = False


@dataclasses.dataclass
class _Failure:
    folder: tuple[int, int]  # inode and time: another folder under the same number is another chance
    retries_left: int
    next_attempt: float


def read_configs(path: str | Path) -> list[ModelConfig]:
    """A `models.config`.

    Raises:
        UserError: it cannot be read, names no model, or one twice.
    """
    listed = parse_file("ModelServerConfig", path).model_config_list.config
    configs = []
    for entry in listed:
        policy = entry.model_version_policy
        configs.append(
            ModelConfig(
                entry.name,
                Path(entry.base_path),
                None if policy.HasField("all") else policy.latest.num_versions or 1,
                tuple(policy.specific.versions),
                {label.key: label.value for label in entry.version_labels},
            )
        )
    names = [config.name for config in configs]
    if not names or not all(names) or len(set(names)) < len(names):
        raise UserError(f"{path}: every config needs a name of its own; found {names or 'no config'}.")
    return configs


class ModelManager:
    """The loaded versions of all models; used from many threads at once.

    Args:
        configs: the models.
        settings: how folders are watched.
        config_file: read again every `config_poll_seconds`; what it then says replaces `configs`.
    """

    def __init__(
        self,
        configs: list[ModelConfig],
        settings: LoadSettings = LoadSettings(),
        config_file: str | Path | None = None,
    ):
        self._settings, self._config_file = settings, config_file
        self._configs = {config.name: config for config in configs}
        self._loaded: dict[tuple[str, int], _Loaded] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._states: dict[str, dict[int, VersionStatus]] = {}
        self._failures: dict[tuple[str, int], _Failure] = {}
        self._lock = threading.Lock()  # held for look-ups alone, never while something loads
        self._refreshing = threading.Lock()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="version-watcher", daemon=True)

    @property
    def names(self) -> list[str]:
        """Of the models, whether or not they are loaded."""
        return list(self._configs)

    def start(self) -> None:
        """Load what is there, then watch.

        Raises:
            UserError: a model has no version, or one that cannot be loaded, or a label names a version not loaded.
        """
        for config in self._configs.values():
            found = _versions(config.base_path)
            wanted = config.wanted(set(found))
            if not wanted:
                which = f"none of versions {list(config.specific)}" if config.specific else "no version"
                raise UserError(
                    f"{config.base_path} holds {which} of model {config.name}: expected a folder named by a number "
                    f"with a saved_model.pb in it, such as {config.base_path / '1'}. Export first (--mode=export)."
                )
            for version in sorted(wanted):
                if error := self._load(config, version, found[version]):
                    raise UserError(f"{found[version]} cannot be loaded: {error}")
            if wrong := self._assign_labels(config):
                raise UserError(f"model {config.name}: {wrong}")
        if self._settings.poll_seconds or (self._config_file and self._settings.config_poll_seconds):
            self._watcher.start()

    def stop(self) -> None:
        """Stop watching and free every version that no request uses; the others go with their last request."""
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()
        for key in list(self._loaded):
            self._retire(key)

    @contextlib.contextmanager
    def acquire(self, name: str, version: int | None = None, label: str | None = None) -> Iterator[Servable]:
        """A version for the length of one request, in which it is not freed: the named one, or the newest.

        Raises:
            ServingError: no such model, version or label.
        """
        with self._lock:
            if label is not None:
                version = self._labels.get(name, {}).get(label)
                if version is None:
                    raise invalid(f"Unrecognized servable version label: {label}")
            available = [number for key, number in self._loaded if key == name]
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            if version is None:
                version = max(available, default=None)
            if version not in available:
                raise not_found(f"Servable not found for request: {wanted}")
            entry = self._loaded[name, version]
            entry.users += 1
        try:
            yield entry.servable
        finally:
            with self._lock:
                entry.users -= 1
                unused = entry.retired and not entry.users
            if unused:
                self._free(entry)

    def statuses(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Of one version or of all that ever were, newest first.

        Raises:
            ServingError: no such model or version.
        """
        with self._lock:
            states = dict(self._states.get(name, {}))
        if version is not None:
            if version not in states:
                raise not_found(f"Could not find version {version} of model {name}")
            return [states[version]]
        if not states:
            raise not_found(f"Could not find any versions of model {name}")
        return [states[number] for number in sorted(states, reverse=True)]

    def refresh(self) -> None:
        """Look at the folders once: load what is new, retire what is no longer wanted."""
        with self._refreshing:
            for config in self._configs.values():
                self._refresh_model(config)

    def replace_configs(self, configs: list[ModelConfig]) -> None:
        """Serve these models instead; labels move once their versions are loaded."""
        with self._refreshing:
            self._configs = {config.name: config for config in configs}
            for config in configs:
                self._refresh_model(config)
                if wrong := self._assign_labels(config):
                    logger.error("model %s: %s", config.name, wrong)
            for key in list(self._loaded):
                if key[0] not in self._configs:
                    self._retire(key)

    def _refresh_model(self, config):
        try:
            found = _versions(config.base_path)
        except UserError as error:
            logger.warning("%s The versions loaded stay.", error)
            return
        wanted = config.wanted(set(found))
        for version in sorted(wanted):
            if (config.name, version) in self._loaded or not self._may_try(config.name, version, found[version]):
                continue
            if error := self._load(config, version, found[version]):
                logger.error("%s cannot be loaded, what was served stays: %s", found[version], error)
        served = {version for name, version in self._loaded if name == config.name}
        if served & wanted:  # else the old ones stay until a wanted one is there, also where the folder was emptied
            for version in served - wanted:
                self._retire((config.name, version))

    def _load(self, config, version, path):
        """Load one version; returns what went wrong."""
        name, started = config.name, time.monotonic()
        self._set_state(name, VersionStatus(version, "LOADING"))
        try:
            servable = Servable(name, version, path, self._settings.warm_up)
        except ServingError as error:
            self._set_state(name, VersionStatus(version, "END", error.code, error.message))
            if failure := self._failures.get((name, version)):
                failure.next_attempt = time.monotonic() + self._settings.retry_seconds
            return error
        with self._lock:
            self._loaded[name, version] = _Loaded(servable)
            self._states[name][version] = VersionStatus(version, "AVAILABLE")
        self._failures.pop((name, version), None)
        logger.info("model %s version %d is available after %.1f s", name, version, time.monotonic() - started)
        return None

    def _may_try(self, name, version, path):
        try:
            about = path.stat()
        except OSError:
            return False  # gone since it was listed
        folder = (about.st_ino, about.st_mtime_ns)
        failure = self._failures.get((name, version))
        if failure is None or failure.folder != folder:
            self._failures[name, version] = _Failure(folder, self._settings.retries, 0)
            return True
        if failure.retries_left and time.monotonic() >= failure.next_attempt:
            failure.retries_left -= 1
            return True
        return False

    def _retire(self, key):
        name, version = key
        with self._lock:
            entry = self._loaded.pop(key)
            entry.retired = True
            self._states[name][version] = VersionStatus(version, "UNLOADING")
            unused = not entry.users
        if unused:
            self._free(entry)

    def _free(self, entry):
        entry.servable.close()
        self._set_state(entry.servable.name, VersionStatus(entry.servable.version, "END"))
        logger.info("model %s version %d is unloaded", entry.servable.name, entry.servable.version)

    def _assign_labels(self, config):
        """Point the labels at their versions; returns what could not be, which stays as it was."""
        before = self._labels.get(config.name, {})
        labels, wrong = {}, []
        for label, version in config.labels.items():
            new = self._settings.labels_for_unavailable and label not in before
            if new or (config.name, version) in self._loaded:
                labels[label] = version
            else:
                wrong.append(f"label {label} names version {version}, which is not loaded")
                if label in before:
                    labels[label] = before[label]
        with self._lock:
            self._labels[config.name] = labels
        return "; ".join(wrong)

    def _set_state(self, name, status):
        with self._lock:
            self._states.setdefault(name, {})[status.version] = status

    def _watch(self):
        settings = self._settings
        config_read, config_time = time.monotonic(), _modified(self._config_file)
        while not self._stopping.wait(settings.poll_seconds or settings.config_poll_seconds):
            try:
                if settings.config_poll_seconds and time.monotonic() - config_read >= settings.config_poll_seconds:
                    config_read, modified = time.monotonic(), _modified(self._config_file)
                    if modified != config_time:
                        config_time = modified
                        self.replace_configs(read_configs(self._config_file))
                if settings.poll_seconds:
                    self.refresh()
            except UserError as error:
                logger.error("%s What was served stays.", error)
            except Exception:  # a defect must not end the watching
                logger.exception("looking for versions failed")


def _modified(path):
    try:
        return Path(path).stat().st_mtime_ns if path else None
    except OSError:
        return None


def _versions(base_path):
    """Folders by version number; other names are passed over."""
    try:
        entries = sorted(base_path.iterdir())
    except OSError as error:
        raise UserError(f"model base path {base_path} cannot be read: {reason(error)}.") from error
    numbered = [entry for entry in entries if entry.name.isascii() and entry.name.isdigit() and entry.is_dir()]
    return {int(entry.name): entry for entry in numbered}
