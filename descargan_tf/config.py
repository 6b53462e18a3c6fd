"""One run, resolved: the frozen Config, whose fields are the flags, each with its unit and range."""

import dataclasses
import re
import shlex
from pathlib import Path

from descargan_tf.errors import UserError
from descargan_tf.flag_fields import flag as _flag
from descargan_tf.server_flags import ServerFlags
from descargan_tf.types import DRAWN

MODES = ("generate", "prepare", "check_data", "train", "evaluate", "predict", "export", "serve", "publish", "benchmark")
EXPORT_FORMATS = ("onnx", "openvino", "litert")
PRETRAINED, PUBLISHED = "pretrained", "published.json"  # where published weights are, and what marks a folder of them


def _path(help, **kwargs):
    return _flag("", help, is_path=True, **kwargs)


def _method_flag(kind, help, **kwargs):
    return _flag(None, help, kind=kind, of_method=True, **kwargs)


@dataclasses.dataclass(frozen=True)
class Config(ServerFlags):
    """One run; field names are flag names.

    A method's settings are None until `run_folder.resolve` puts in the method's own, and stay so where it has none of
    that name.
    """

    # What to do, and where
    mode: str = _flag("train", "what to do", choices=MODES, of_run=False)
    method: str = _flag("descargan", "the method to train (see descargan_tf/methods)")
    dataset: str = _flag(
        "folders",
        "synthetic: the paper's data, synthetic_chest: radiographs with pleural effusions, both drawn into --data_dir "
        "when it is missing; folders: your own images; prepared: what --mode=prepare made of raw files; chest_phantom: "
        "generate alone; drawn radiographs as DICOM files in CheXpert's layout",
        choices=(*DRAWN, "folders", "prepared", "chest_phantom"),
    )
    data_dir: str = _path("where the data lie; data/<dataset>_<image_size> by default for what is drawn", of_run=False)
    run_dir: str = _path("where a run lies; runs/<name of the flagfile> by default", of_run=False)
    backend: str = _flag(
        "tensorflow",
        "what computes; train, evaluate, predict: jax does it without TensorFlow (requirements-jax.txt)",
        choices=("tensorflow", "jax"),
        of_run=False,
    )
    input: str = _path(
        "predict: an image file or NIfTI volume, or a folder of them; prepare: the folder of raw files", of_run=False
    )
    output_dir: str = _path(
        "predict: where results go, <run_dir>/predictions by default; check_data: where check_report.html goes, by "
        "default <data_dir>_check_report.html beside the data",
        of_run=False,
    )
    dicom_overlay: bool = _flag(
        False,
        "predict, DICOM: also <stem>_overlay.dcm, a Secondary Capture with the source's patient and study in it, for "
        "the archive that the source is from (docs/medical_data.md)",
        of_run=False,
    )
    checkpoint: str = _flag(
        "best",
        "evaluate, predict, export, serve: best, latest, a step, the folder of a checkpoint, or published weights, "
        "pretrained/<name>, which need no run",
        is_path=True,
        of_run=False,
    )
    init_from: str = _path("train: published weights to begin with, pretrained/<name>")
    publish_dir: str = _path(
        "publish: a folder that does not exist; pretrained/<name of the run> by default", of_run=False
    )
    publish_note: str = _flag("", "publish: what else the model card is to say", of_run=False)
    shard: str = _flag(
        "",
        "predict: i/n, as in 0/8: every n-th file from number i on; the last of n such processes joins their tables",
        of_run=False,
    )
    export_dir: str = _path("export, serve: holds the numbered versions; <run_dir>/export by default", of_run=False)
    export_version: int = _flag(0, "export: number of the version; 0: the next free one", low=0, of_run=False)
    export_precision: str = _flag(
        "float32",
        "export: of the convolutions; what goes in and comes out is float32",
        choices=("float32", "bfloat16"),
        of_run=False,
    )
    export_formats: str = _flag("", "export: also these, from onnx,openvino,litert", of_run=False)
    export_largest_batch: int = _flag(
        4, "export: images in the largest warm-up request; the server's max_batch_size", low=1, of_run=False
    )
    dry_run: bool = _flag(False, "print what would be done and how large it is; touch nothing", of_run=False)
    threads_per_op: int = _flag(
        0,
        "TensorFlow: processor threads of one operation; 1 is faster for small networks. 0: one where there are two "
        "cores and no GPU, else TensorFlow's choice",
        low=0,
        of_run=False,
    )

    strategy: str = _flag(
        "auto",
        "train, TensorFlow: on one device, all of this machine (mirrored), or those of all processes in TF_CONFIG "
        "(multi_worker); auto: multi_worker if TF_CONFIG names several, else mirrored",
        choices=("auto", "one_device", "mirrored", "multi_worker"),
        of_run=False,
    )

    # Data
    image_size: int = _flag(256, "pixels a side", low=64, high=8192, multiple_of=64)
    value_range: str = _flag(
        "auto",
        "folders, prepare: 'low,high' of the files' values; auto: from their type. DICOM: where there is no window",
    )
    ground_truth: str = _flag(
        "auto",
        "folders: what the ground truth is: a mask (which pixels) or a signed difference, healthy - diseased; auto: a "
        "mask if of 8 bits, or without values but 0 and a positive one",
        choices=("auto", "mask", "difference"),
        of_run=False,
    )
    source: str = _flag(
        "folder",
        "prepare: what the raw files are: folders named after classes, images that a table names, CheXpert, DICOM, "
        "NIfTI",
        choices=("folder", "csv", "chexpert", "dicom", "nifti"),
        of_run=False,
    )
    labels_csv: str = _path("prepare: the table with the columns path, label (docs/medical_data.md)", of_run=False)
    finding: str = _flag("Pleural Effusion", "prepare, chexpert: the column that makes an image diseased", of_run=False)
    uncertain: str = _flag(
        "drop",
        "prepare, chexpert: what -1 under --finding is taken for; drop: the image is left out",
        choices=("drop", "positive", "negative"),
        of_run=False,
    )
    view: str = _flag(
        "frontal", "prepare, chexpert: which views are taken", choices=("frontal", "lateral", "all"), of_run=False
    )
    fit: str = _flag(
        "pad",
        "prepare: how an image that is no square becomes one: black bars, the middle square, or bent",
        choices=("pad", "crop", "stretch"),
        of_run=False,
    )
    patient_key: str = _path(
        "prepare: a file that keys the pseudonyms of patients; by default a random key that nobody knows afterwards",
        of_run=False,
    )
    strict: bool = _flag(False, "prepare: stop at the first file that fails", of_run=False)
    slice_axis: str = _flag(
        "axial",
        "prepare, predict, NIfTI: across which axis of the patient slices are taken",
        choices=("axial", "coronal", "sagittal"),
        of_run=False,
    )
    slices: str = _flag(
        "0.0:1.0",
        "prepare, predict, NIfTI: which slices, from below, behind or the left; numbers, as in 60:100, or shares of "
        "the volume, as in 0.3:0.7",
        of_run=False,
    )
    nifti_range: str = _flag(
        "0.5%,99.5%",
        "prepare, predict, NIfTI: the values that become black and white: percentiles of a volume's voxels that are "
        "not 0, or 'low,high' for all volumes, as in -160,240",
        of_run=False,
    )
    volumes: str = _flag(
        "*", "prepare, predict, NIfTI: which files of a folder, by name, as in *_flair.nii.gz", of_run=False
    )
    unmarked_slices: str = _flag(
        "drop",
        "prepare, NIfTI: what becomes of a slice that the mask of its diseased volume does not mark",
        choices=("drop", "healthy"),
        of_run=False,
    )
    patient_pattern: str = _flag(
        "",
        "prepare, NIfTI: a regular expression that finds the patient in a volume's path, its first group if it has "
        "one; by default the file's name up to its session or kind",
        of_run=False,
    )
    num_train: int = _flag(2000, "synthetic: training images per class", low=0)
    num_validate: int = _flag(200, "synthetic, prepare: validation images per class", low=0)
    num_test: int = _flag(200, "synthetic, prepare: test images per class", low=1)
    data_seed: int = _flag(0, "synthetic: seed of the images; prepare: of the split", low=0, high=2**31 - 1)
    flips: bool = _flag(True, "mirror training images left-right and top-bottom at random")

    # Training
    seed: int = _flag(0, "of weights, batches and everything else that is random in a run", low=0, high=2**31 - 1)
    batch_size: int = _flag(10, "images a step over all devices, half of them healthy", low=2, multiple_of=2)
    max_steps: int = _flag(40000, "rounds (critic updates, then one generator update) to train", low=1, of_run=False)
    precision: str = _flag(
        "float32",
        "of the convolutions; auto: bfloat16 where the hardware has instructions for it",
        choices=("float32", "bfloat16", "auto"),
    )
    max_minutes: float = _flag(
        0.0,
        "training also ends after so many minutes, its schedules shortened accordingly; 0: no limit",
        low=0,
        of_run=False,
    )
    average_decay: float = _flag(0.0, "of the generator's averaged weights, a round; 0: none", low=0, high=0.99999)
    clip_norm: float = _flag(0.0, "largest global norm of a gradient; 0: no clipping", low=0)
    warmup_steps: int = _flag(0, "first rounds over which the learning rates rise from zero", low=0)
    decay_steps: int = _flag(0, "last rounds over which the learning rates fall to zero; 0: constant", low=0)
    fixed_statistics_from: float = _flag(
        1.0,
        "share of the training after which normalisation uses fixed averages, as at inference; 1: never (paper)",
        low=0.01,
        high=1,
    )
    jit_compile: bool = _flag(
        False,
        "train: compile rounds by XLA, for one GPU; on a processor they are several times slower "
        "(--backend=jax always compiles)",
        of_run=False,
    )
    deterministic: bool = _flag(
        False,
        "train: weights and metrics.jsonl are the same to the byte each time on a machine, however often the training "
        "was interrupted: operations in a fixed order, no pace in metrics.jsonl, no recoveries",
        of_run=False,
    )
    recoveries: int = _flag(
        3,
        "times that a training that comes apart goes back to its last sound state, at rates 0.7 times as large, before "
        "it stops",
        low=0,
        of_run=False,
    )
    log_every_steps: int = _flag(50, "rounds between lines of the log", low=1, of_run=False)
    validate_every_steps: int = _flag(1000, "rounds between validations", low=1, of_run=False)
    checkpoint_every_steps: int = _flag(1000, "rounds between checkpoints", low=1, of_run=False)
    keep_checkpoints: int = _flag(2, "latest checkpoints kept beside the best one", low=1, of_run=False)

    # Networks
    generator_filters: int | None = _method_flag(int, "of the generator's first layer", low=1)
    discriminator_filters: int | None = _method_flag(int, "of the discriminator's first layer", low=1)
    batch_norm: str | None = _method_flag(
        str,
        "statistics at inference: moving averages, or each image's own (the authors' program's)",
        choices=("moving", "per_image"),
        of_run=False,
    )

    # DeScarGAN's losses (paper, sect. 2.1 and 4) and where its text and the authors' program differ
    critic_updates: int | None = _method_flag(int, "discriminator updates per generator update", low=1)
    generator_learning_rate: float | None = _method_flag(float, "Adam", low=0)
    discriminator_learning_rate: float | None = _method_flag(float, "Adam", low=0)
    lambda_adv_d: float | None = _method_flag(float, "eq. (8)", low=0)
    lambda_gp: float | None = _method_flag(float, "eq. (1); multiplied by lambda_adv_d as well", low=0)
    lambda_cls_d: float | None = _method_flag(float, "eq. (8)", low=0)
    lambda_adv_g: float | None = _method_flag(float, "eq. (7)", low=0)
    lambda_cls_g: float | None = _method_flag(float, "eq. (7)", low=0)
    lambda_id: float | None = _method_flag(float, "eq. (7)", low=0)
    lambda_rec: float | None = _method_flag(float, "eq. (7)", low=0)
    distance: str | None = _method_flag(
        str, "eq. (3), (6): the norm as printed, or the program's mean square", choices=("l2", "mse")
    )
    rules: str | None = _method_flag(
        str,
        "of DeScarGAN, where the authors' program does otherwise than their text: which translations are criticised, "
        "in what passes, what the gradient penalty differentiates, noise, and the border of the critics' maps",
        choices=("paper", "program"),
    )
    classifier_dropout: float | None = _method_flag(float, "rate before the classifier's last layer", low=0, high=0.9)
    discriminator_initializer: str | None = _method_flag(
        str,
        "of the discriminator's convolutions; glorot_normal is the program's, pytorch_uniform that of StarGAN's",
        choices=("glorot_normal", "he_normal", "pytorch_uniform"),
    )
    discriminator_activation: str | None = _method_flag(
        str,
        "between the layers of DeScarGAN's discriminator and of dcls; relu is the paper's",
        choices=("relu", "leaky_relu"),
    )
    discriminator_max_filters: int | None = _method_flag(
        int, "no layer of DeScarGAN's discriminator, or of dcls, has more; 0: 16 times the first layer's", low=0
    )
    discriminator_poolings: int | None = _method_flag(
        int, "of its trunk, each halves the width; the critics' maps are image_size / 2^this wide", low=1, high=5
    )

    # What the paper claims to be of use, undone (configs/ablation_*.flags)
    skip_connections: str | None = _method_flag(
        str,
        "of the generator: all but the topmost (paper), none, or all",
        choices=("inner", "none", "all"),
    )
    generator_branches: int | None = _method_flag(
        int, "output branches of the generator: one per class (paper), or one", low=1, high=2
    )
    critic_branches: int | None = _method_flag(
        int, "critics of the discriminator: one per class (paper), or one", low=1, high=2
    )
    output: str | None = _method_flag(
        str,
        "what the generator makes: a new image (paper), or a change of its input, x + 2 tanh(delta)",
        choices=("image", "change"),
    )

    # Of the compared methods alone; they share the flags above where their settings have a field of that name
    lambda_map: float | None = _method_flag(
        float, "vagan: weight of the mean magnitude of its map on diseased images", low=0
    )
    latent_units: int | None = _method_flag(int, "vae: length of an image's code", low=1)
    dense_blocks: str | None = _method_flag(
        str, "densenet169: layers in each of the four dense blocks; DenseNet-121 has 6,12,24,16"
    )
    lambda_kl: float | None = _method_flag(float, "vae: weight of the divergence of the codes", low=0)
    saliency: str = _flag(
        "none",
        "evaluate, predict: what gives a method that only classifies a map of where it sees disease",
        choices=("none", "gradcam", "integrated_gradients", "occlusion"),
        of_run=False,
    )

    # A grid of runs and the tables that come of it
    benchmark_runs: str = _flag(
        "",
        "benchmark: what to train with which seeds, as in descargan:0,1;fpgan:0; a row of the tables each",
        of_run=False,
    )
    benchmark_flagfiles: str = _flag(
        "configs/quick_{}.flags", "benchmark: the flagfile of a row; {} stands for its name", is_path=True, of_run=False
    )
    benchmark_images: int = _flag(
        28000, "benchmark: training images that every run sees in its updates; sets --max_steps", low=1, of_run=False
    )
    benchmark_validations: int = _flag(
        10, "benchmark: validations of a run, evenly spread; the best checkpoint is one of so many", low=1, of_run=False
    )
    benchmark_jobs: int = _flag(1, "benchmark: runs at a time; they share out the cores", low=1, of_run=False)
    benchmark_flags: str = _flag(
        "",
        "benchmark: further flags for every run, as in '--num_test=50'; other flags join them",
        of_run=False,
    )
    benchmark_tables_only: bool = _flag(
        False, "benchmark: train nothing; tables and report of the runs that are there", of_run=False
    )

    def __post_init__(self):
        """Reject what the flags' own ranges cannot see.

        Raises:
            UserError: names the flags.
        """
        if self.mode == "train" and self.dataset in DRAWN and not (self.num_train and self.num_validate):
            raise UserError(
                f"--num_train={self.num_train} --num_validate={self.num_validate}: training needs both of them."
            )
        if self.mode == "train" and self.deterministic:
            if self.max_minutes:
                raise UserError(
                    f"--deterministic: what --max_minutes={self.max_minutes:g} leaves time for differs each time: add "
                    "--max_minutes=0, and --max_steps=<rounds>."
                )
            if self.jit_compile:
                raise UserError(
                    "--deterministic: what --jit_compile makes of a round is not held to it: leave one out."
                )
            if self.backend != "tensorflow":
                raise UserError(f"--deterministic needs TensorFlow: leave out --backend={self.backend}.")
        if self.dataset == "chest_phantom" and self.mode not in ("generate", "prepare"):
            raise UserError(
                f"--dataset=chest_phantom draws raw files by --mode=generate: --mode={self.mode} takes what "
                "--mode=prepare --source=chexpert makes of them, by --dataset=prepared."
            )
        if self.mode == "predict" and not self.input:
            raise UserError("--mode=predict needs --input=<image file or folder>.")
        if self.mode == "prepare" and not (self.input and self.data_dir):
            raise UserError("--mode=prepare needs --input=<folder of raw files> and --data_dir=<folder to make>.")
        if self.dataset not in DRAWN and not self.data_dir and self.mode in ("train", "evaluate", "check_data"):
            raise UserError(
                "--data_dir is missing: name the folder that holds train, validate and test, "
                "or pass --dataset=synthetic_chest (as configs/quickstart.flags does) for drawn data."
            )
        if self.dense_blocks is not None and not re.fullmatch(r"[1-9]\d*(,[1-9]\d*){3}", self.dense_blocks):
            raise UserError(f"--dense_blocks={self.dense_blocks}: expected four numbers of layers, as in 6,12,32,32.")
        if self.strategy != "auto" and self.backend != "tensorflow":
            raise UserError(f"--strategy={self.strategy} is TensorFlow's: leave it out, or --backend={self.backend}.")
        if self.mode == "train" and not self.run_dir:
            raise UserError("--run_dir is missing: name the folder of this run, or pass a --flagfile to name it after.")
        unknown = [name for name in self.formats if name not in EXPORT_FORMATS]
        if unknown:
            raise UserError(f"--export_formats={self.export_formats}: known are {', '.join(EXPORT_FORMATS)}.")
        if self.mode == "export" and self.formats and self.export_precision != "float32":
            raise UserError(
                f"--export_formats={self.export_formats} are written in float32: leave out "
                f"--export_precision={self.export_precision}, and set the precision in the engine that runs them."
            )
        if self.mode in ("evaluate", "predict", "export", "publish") and not self.run_dir:
            raise UserError(
                f"--mode={self.mode} needs --run_dir=<folder of a trained run>, runs/quickstart for one"
                + (f", or --checkpoint={PRETRAINED}/<name>." if self.mode != "publish" else ".")
            )
        if self.mode == "publish" and self.published:
            raise UserError(f"--checkpoint={self.checkpoint} is published already; --mode=publish is for a run.")
        if self.mode in ("export", "serve", "publish") and self.backend != "tensorflow":
            raise UserError(f"--mode={self.mode} needs TensorFlow: leave out --backend={self.backend}.")
        if self.mode == "serve" and not (self.export_dir or self.run_dir or self.names_models):
            raise UserError(
                "--mode=serve needs --export_dir=<folder of version folders>, --run_dir=<exported run> or "
                "--model_config_file=<file>."
            )
        if self.mode == "serve" and self.export_dir and self.names_models:
            raise UserError(
                f"--export_dir={self.export_dir} is what --mode=serve serves where neither --model_base_path nor "
                "--model_config_file says what else: leave out one of them."
            )
        if self.mode == "benchmark":
            if not self.run_dir:
                raise UserError("--run_dir is missing: name the folder of the benchmark, or pass a --flagfile.")
            if "{}" not in self.benchmark_flagfiles:
                raise UserError(
                    f"--benchmark_flagfiles={self.benchmark_flagfiles}: expected {{}} where a row's name belongs, "
                    "as in configs/quick_{}.flags."
                )
            try:
                shlex.split(self.benchmark_flags)
            except ValueError as error:
                raise UserError(f"--benchmark_flags={self.benchmark_flags}: {error}.") from None
            if not self.runs:
                raise UserError("--benchmark_runs is missing: name rows and seeds, as in descargan:0,1;fpgan:0.")

    @property
    def runs(self) -> dict[str, tuple[int, ...]]:
        """--benchmark_runs: seeds by name, in the order given.

        Raises:
            UserError: names the part that is not name:seed,seed or comes twice.
        """
        found: dict[str, tuple[int, ...]] = {}
        for part in filter(None, (part.strip() for part in self.benchmark_runs.split(";"))):
            if not re.fullmatch(r"\w[\w.-]*:\d{1,9}(,\d{1,9})*", part):
                raise UserError(f"--benchmark_runs: {part!r} is not <name>:<seed>,<seed>, as in descargan:0,1.")
            name, _, seeds = part.partition(":")
            numbers = tuple(map(int, seeds.split(",")))
            if name in found or len(set(numbers)) < len(numbers):
                raise UserError(f"--benchmark_runs: {part!r} names a row or a seed twice.")
            found[name] = numbers
        return found

    @property
    def published(self) -> Path | None:
        """The folder of published weights that --checkpoint names, if it does."""
        return published_folder(self.checkpoint)

    @property
    def trained_dir(self) -> Path:
        """What says of what is trained with which flags, on which data, how well: a run, or published weights."""
        return self.published or Path(self.run_dir)

    @property
    def formats(self) -> tuple[str, ...]:
        """--export_formats, one by one."""
        return tuple(dict.fromkeys(name for name in self.export_formats.split(",") if name))


def published_folder(name: str) -> Path | None:
    """The folder of published weights of that name; None where the name means something else.

    Raises:
        UserError: it means one that is not there; lists what is.
    """
    folder = Path(name)
    if (folder / PUBLISHED).is_file():
        return folder
    if folder.parent.name == PRETRAINED:
        known = ", ".join(sorted(path.parent.name for path in folder.parent.glob(f"*/{PUBLISHED}")))
        raise UserError(f"there are no weights in {folder}; {folder.parent} holds {known or 'none'}.")
    return None
