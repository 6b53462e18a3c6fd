"""--mode=predict."""

import sys
from pathlib import Path

from tqdm import tqdm

from descargan_tf import run_folder, signals
from descargan_tf.config import Config
from descargan_tf.data.formats import IMAGE_SUFFIXES
from descargan_tf.data.listing import list_images
from descargan_tf.errors import UserError
from descargan_tf.files import reason
from descargan_tf.names import one_line
from descargan_tf.prediction.files import find_inputs, predict_files
from descargan_tf.prediction.splits import BATCH_SIZE
from descargan_tf.prediction.table import refuse_folder_of_inputs
from descargan_tf.training.backends import compiled_predict


@signals.leaving("nothing was predicted")
def predict(config: Config) -> int:
    """Maps and a CSV for image files."""
    files = find_inputs(config.input)
    ignored = list_images(config.input)[1] if Path(config.input).is_dir() else 0
    output_dir = Path(config.output_dir or Path(config.run_dir) / "predictions")
    refuse_folder_of_inputs(files, output_dir)
    method = run_folder.restore(config).method
    facts = run_folder.data_facts(config.trained_dir)
    try:
        with tqdm(total=len(files), unit="image", disable=None, desc="predict") as bar:
            failed = predict_files(
                compiled_predict(config, method),
                files,
                output_dir,
                config.image_size,
                facts["scaling"],
                facts["dtype"],
                BATCH_SIZE,
                bar.update,
            )
    except OSError as error:
        raise UserError(f"--output_dir={output_dir} cannot be written: {reason(error)}.") from error
    print(f"{len(files) - len(failed)} of {len(files)} images done: {output_dir / 'predictions.csv'}")
    if ignored:
        endings = " ".join(IMAGE_SUFFIXES)
        print(f"passed over: {ignored} subfolders, hidden files and files that do not end in {endings}")
    for message in failed:
        print(f"not done: {one_line(message)}", file=sys.stderr)
    return 1 if failed else 0
