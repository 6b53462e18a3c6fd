"""Several processes predict the files of one folder."""

import numpy as np
import pytest

from descargan_tf.data.images import Scaling, write_png
from descargan_tf.errors import UserError
from descargan_tf.prediction.files import predict_files
from descargan_tf.prediction.shards import WHOLE, Shard, join, parse
from descargan_tf.prediction.table import TABLE
from descargan_tf.types import Prediction

SIZE = 16


def fake_predict(images):
    images = np.asarray(images)
    score = images.mean((1, 2, 3))
    return Prediction(-images / 2, images / 2, score, np.stack([1 - abs(score), abs(score)], 1))


def predicted(files, folder, shard=WHOLE):
    return predict_files(fake_predict, files, folder, SIZE, Scaling(0, 255), "uint8", 2, shard=shard)


@pytest.fixture
def files(tmp_path):
    """Seven; two share a stem, and one cannot be read."""
    names = ["a.png", "a.tif", "b.png", "c.png", "d.png", "e.png", "f.png"]
    for number, name in enumerate(names):
        write_png(tmp_path / name, np.full((SIZE, SIZE), 30 * number, np.uint8))
    (tmp_path / "d.png").write_bytes(b"no image")
    return [tmp_path / name for name in names]


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_shards_make_what_one_process_makes(files, tmp_path, count):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    failed = predicted(files, whole)
    assert len(failed) == 1
    shards = [Shard(index, count) for index in range(count)]
    found = []
    for shard in reversed(shards):
        found += predicted(files, parts, shard)
        missing = join(parts, files, shard)
        assert missing == shards[: shard.index], "joined when the last is through, and no sooner"
        assert (parts / TABLE).exists() == (not missing)
    assert found == failed
    made = {path.name: path.read_bytes() for path in whole.iterdir()}
    own = {shard.table for shard in shards} - {TABLE}
    assert {path.name: path.read_bytes() for path in parts.iterdir() if path.name not in own} == made


def test_tables_of_other_files_are_not_joined(files, tmp_path):
    parts = tmp_path / "parts"
    predicted(files, parts, Shard(0, 2))
    predicted(files[1:], parts, Shard(1, 2))
    with pytest.raises(UserError) as caught:
        join(parts, files, Shard(1, 2))
    assert "predictions-00001-of-00002.csv is of other files" in str(caught.value)
    assert not (parts / TABLE).exists()


def test_what_a_shard_is_called():
    assert parse("") == WHOLE
    assert parse("3/12") == Shard(3, 12)
    assert Shard(3, 12).table == "predictions-00003-of-00012.csv"
    assert parse("0/1").table == TABLE


@pytest.mark.parametrize("text", ["3", "8/8", "-1/4", "1/0", "1/4/2", "a/b", " 0/2"])
def test_what_is_no_shard(text):
    with pytest.raises(UserError, match=r"--shard=.*: expected i/n"):
        parse(text)
