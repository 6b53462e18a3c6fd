"""A program of ours where environment, home folder and working directory are set for other things."""

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = {
    "KERAS_BACKEND": "torch",
    "KERAS_MAX_EPOCHS": "none",
    "KERAS_NNX_ENABLED": "true",
    "TF2_BEHAVIOR": "0",
    "TF_USE_LEGACY_KERAS": "1",
    "TF_ENABLE_AUTO_MIXED_PRECISION": "1",
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2",
    "TF_SET_ONEDNN_FPMATH_MODE": "BF16",
    "MPLBACKEND": "nonsense",
}
OTHER_KERAS = json.dumps(
    {"backend": "torch", "image_data_format": "channels_first", "floatx": "float16", "epsilon": 0.1}
)


def run(folder, keras_json, *command, pythonpath=str(ROOT)):
    """A command, run to its end in hostile surroundings in a folder: a subprocess.CompletedProcess."""
    (folder / "home/.keras").mkdir(parents=True)
    (folder / "home/.keras/keras.json").write_text(keras_json)
    (folder / "matplotlibrc").write_text("text.usetex: True\n")
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **HOSTILE, "HOME": str(folder / "home"), "PYTHONPATH": pythonpath},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (folder / "home/.keras/keras.json").read_text() == keras_json
    return done
