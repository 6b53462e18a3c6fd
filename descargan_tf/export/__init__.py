"""export/, which lies beside this package in a checkout, by the one name that all code imports it by.

A wheel has its files here in this one's place (setup.py), as a package called `export` in site-packages would meet
other people's. The name is the same in both, and found from this file's own place: a file export.py in the folder where
somebody works is not asked for. `python -m export.embedded` in a checkout is short for
`python -m descargan_tf.export.embedded`.
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "export")]
