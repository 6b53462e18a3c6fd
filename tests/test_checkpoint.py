"""Checkpoints on disk: whole or not at all, found by name, refused where they do not fit."""

import hashlib
import json
import os

import keras
import numpy as np
import pytest

from descargan_tf.errors import UserError
from descargan_tf.training import checkpoint

FULL = OSError(28, "No space left on device")
ARRAYS = {
    "networks/g/000": np.arange(6, dtype=np.float32).reshape(2, 3),
    "networks/g/001": np.float32(2.5).reshape(()),
    "optimizers/g/000": np.array(7, np.int64),
}
ABOUT = {"step": 7, "seed": 3, "best_selection": None}


def raises_full(*_, **__):
    raise FULL


def is_whole(folder, arrays=ARRAYS, about=ABOUT):
    found, told = checkpoint.load(folder)
    assert told == about
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    return True


def make_checkpoints(run_dir, *names):
    for name in names:
        checkpoint.save(run_dir / "checkpoints" / str(name), {"a/000": np.zeros(1)}, {"step": name})
    return run_dir


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- writing and reading


def test_what_is_saved_is_loaded(tmp_path):
    checkpoint.save(tmp_path / "checkpoints" / "7", ARRAYS, ABOUT)
    assert is_whole(tmp_path / "checkpoints" / "7")
    assert names_in(tmp_path / "checkpoints") == ["7"]


def test_saving_again_replaces_all_of_it(tmp_path):
    checkpoint.save(tmp_path / "best", ARRAYS, ABOUT)
    checkpoint.save(tmp_path / "best", {"b/000": np.ones(2)}, {"step": 8})
    assert is_whole(tmp_path / "best", {"b/000": np.ones(2)}, {"step": 8})
    assert names_in(tmp_path) == ["best"]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "best", ARRAYS, ABOUT)

    def fill(file, **_):
        file.write(b"half of it")
        raise FULL

    monkeypatch.setattr(np, "savez", fill)
    with pytest.raises(UserError) as caught:
        checkpoint.save(tmp_path / "best", {"b/000": np.ones(2)}, {"step": 8})
    message = str(caught.value)
    assert message.startswith(f"the checkpoint {tmp_path / 'best'} could not be written: No space left on device.")
    assert "free space" in message
    assert names_in(tmp_path) == ["best"]
    assert is_whole(tmp_path / "best")


def test_a_disk_that_is_full_when_flushed_leaves_what_was_there(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "best", ARRAYS, ABOUT)
    monkeypatch.setattr(os, "fsync", raises_full)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoint.save(tmp_path / "best", {"b/000": np.ones(2)}, {"step": 8})
    assert names_in(tmp_path) == ["best"]
    assert is_whole(tmp_path / "best")


def test_a_replacement_that_fails_at_the_last_moment_leaves_what_was_there(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "best", ARRAYS, ABOUT)

    def failing(move):
        def move_all_but_the_new(source, target, *args, **kwargs):
            if os.fspath(source).endswith(".partial"):
                raise FULL
            return move(source, target, *args, **kwargs)

        return move_all_but_the_new

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    with pytest.raises(UserError, match="Earlier checkpoints are untouched"):
        checkpoint.save(tmp_path / "best", {"b/000": np.ones(2)}, {"step": 8})
    assert is_whole(tmp_path / "best")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(UserError, match=f"the checkpoint {tmp_path / 'checkpoints' / '7'} could not be written"):
        checkpoint.save(tmp_path / "checkpoints" / "7", ARRAYS, ABOUT)
    assert (tmp_path / "checkpoints").read_text() == "a file in the way"


def test_what_a_killed_save_left_is_no_checkpoint_and_is_cleared_by_the_next(tmp_path):
    partial = tmp_path / "checkpoints" / "7.partial"
    partial.mkdir(parents=True)
    (partial / "state.npz").write_bytes(b"half")
    (partial / "checkpoint.json").write_text("{}")
    assert checkpoint.steps(tmp_path / "checkpoints") == []
    checkpoint.save(tmp_path / "checkpoints" / "7", ARRAYS, ABOUT)
    assert names_in(tmp_path / "checkpoints") == ["7"]
    assert is_whole(tmp_path / "checkpoints" / "7")


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_checkpoint_is_refused(tmp_path, keep):
    folder = tmp_path / "7"
    checkpoint.save(folder, ARRAYS, ABOUT)
    whole = (folder / "state.npz").read_bytes()
    (folder / "state.npz").write_bytes(whole[:keep])
    with pytest.raises(UserError, match=f"{folder} is not a readable checkpoint .*: name another with --checkpoint"):
        checkpoint.load(folder)


@pytest.mark.parametrize("damage", ["no arrays", "no description", "half a description", "flipped bits"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    folder = tmp_path / "7"
    checkpoint.save(folder, {"a/000": np.zeros(1000, np.float32)}, ABOUT)
    if damage == "no arrays":
        (folder / "state.npz").unlink()
    elif damage == "no description":
        (folder / "checkpoint.json").unlink()
    elif damage == "half a description":
        (folder / "checkpoint.json").write_text('{"step": 7, "se')
    else:
        raw = bytearray((folder / "state.npz").read_bytes())
        raw[len(raw) // 2] ^= 255
        (folder / "state.npz").write_bytes(raw)
    with pytest.raises(UserError, match="is not a readable checkpoint"):
        checkpoint.load(folder)


def some_weights(seed):
    rng = np.random.default_rng(seed)
    return {f"networks/g/{number:03d}": rng.normal(size=(3, 3, 4)).astype(np.float32) for number in range(9)}


@pytest.mark.parametrize("damage", ["truncated", "a bit flipped"])
def test_damage_at_any_place_is_found_and_the_checkpoint_before_is_used(tmp_path, damage):
    """Also where nobody would miss it: in the heads that a zip archive has twice, and in the sums themselves."""
    checkpoint.save(tmp_path / "6", some_weights(6), {"step": 6, "seed": 3})
    checkpoint.save(tmp_path / "7", some_weights(7), {"step": 7, "seed": 3})
    whole = {path.name: path.read_bytes() for path in (tmp_path / "7").iterdir()}
    assert set(whole) == {"state.npz", "checkpoint.json", "SHA256SUMS"}
    rng = np.random.default_rng(0)
    for _ in range(100):
        name = str(rng.choice(list(whole), p=[1 / 3] * 3))
        place = int(rng.integers(len(whole[name])))
        if damage == "truncated":
            content = whole[name][:place]
        else:
            content = bytearray(whole[name])
            content[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "7" / name).write_bytes(content)
        with pytest.raises(checkpoint.Damaged, match=f"^{tmp_path / '7'} is not a readable checkpoint"):
            checkpoint.load(tmp_path / "7")
        said = []
        found = checkpoint.load_latest(tmp_path, said.append)
        assert found.folder == tmp_path / "6"
        assert is_whole(found.folder, some_weights(6), {"step": 6, "seed": 3})
        (line,) = said
        assert line.startswith(f"WARNING: {tmp_path / '7'} is damaged (")
        assert line.endswith(" and set aside as 7.damaged; going on from step 6, the latest that is whole")
        (tmp_path / "7.damaged").rename(tmp_path / "7")
        (tmp_path / "7" / name).write_bytes(whole[name])
    assert checkpoint.load_latest(tmp_path, said.append).folder == tmp_path / "7"


def test_the_sums_are_those_that_sha256sum_checks(tmp_path):
    checkpoint.save(tmp_path / "7", ARRAYS, ABOUT)
    for line in (tmp_path / "7" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "7" / name).read_bytes()).hexdigest() == digest


def test_a_checkpoint_of_an_earlier_version_has_no_sums_and_is_read(tmp_path):
    checkpoint.save(tmp_path / "7", ARRAYS, ABOUT)
    (tmp_path / "7" / "SHA256SUMS").unlink()
    assert is_whole(tmp_path / "7")
    assert checkpoint.load_latest(tmp_path, print).about == ABOUT
    (tmp_path / "7").rename(tmp_path / "9")  # or a digit of its step is another
    with pytest.raises(UserError, match=r"none of the checkpoints in .* is whole: .*says that it is of another step"):
        checkpoint.load_latest(tmp_path, print)


def test_one_that_may_not_be_read_is_not_taken_for_damaged(tmp_path, monkeypatch):
    make_checkpoints(tmp_path, 3, 4)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(UserError, match="4 cannot be read: Permission denied"):
        checkpoint.load_latest(tmp_path / "checkpoints", print)
    assert names_in(tmp_path / "checkpoints") == ["3", "4"]


@pytest.mark.parametrize("with_sums", [True, False])
def test_a_checkpoint_with_pickled_objects_is_not_loaded(tmp_path, with_sums):
    folder = tmp_path / "7"
    checkpoint.save(folder, ARRAYS | {"a": np.array([{"x": 1}], dtype=object)}, ABOUT)
    if not with_sums:
        (folder / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="is not a readable checkpoint"):
        checkpoint.load(folder)


# ---- finding


def test_steps_are_sorted_as_numbers_and_are_checkpoints_only(tmp_path):
    make_checkpoints(tmp_path, 100, 20, 3, "best")
    (tmp_path / "checkpoints" / "50").mkdir()  # holds nothing
    (tmp_path / "checkpoints" / "notes.txt").touch()
    assert checkpoint.steps(tmp_path / "checkpoints") == [3, 20, 100]
    assert checkpoint.steps(tmp_path / "nowhere") == []


def test_find_best_latest_step_and_folder(tmp_path):
    folder = make_checkpoints(tmp_path / "run", 3, 20, 100, "best") / "checkpoints"
    other = make_checkpoints(tmp_path / "other", "mine") / "checkpoints" / "mine"
    assert checkpoint.find(tmp_path / "run", "best") == folder / "best"
    assert checkpoint.find(tmp_path / "run", "latest") == folder / "100"
    assert checkpoint.find(tmp_path / "run", "20") == folder / "20"
    assert checkpoint.find(tmp_path / "run", str(other)) == other


def test_a_reader_leaves_alone_what_a_training_may_be_about_to_replace(tmp_path):
    folder = make_checkpoints(tmp_path, 3, "best.old") / "checkpoints"
    assert checkpoint.find(tmp_path, "best") == folder / "best.old"
    assert names_in(folder) == ["3", "best.old"]


def test_what_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "best", ARRAYS, ABOUT)
    load, new = np.load, {"b/000": np.ones(2)}

    def replaced_meanwhile(path, **how):
        monkeypatch.setattr(np, "load", load)
        checkpoint.save(tmp_path / "best", new, {"step": 8})
        return load(path, **how)

    monkeypatch.setattr(np, "load", replaced_meanwhile)
    assert is_whole(tmp_path / "best", new, {"step": 8})


def test_without_a_validation_the_latest_is_the_best(tmp_path):
    folder = make_checkpoints(tmp_path, 3, 20) / "checkpoints"
    assert checkpoint.find(tmp_path, "best") == folder / "20"


@pytest.mark.parametrize("which", ["21", "last", "nowhere/at/all", "3.0"])
def test_an_unknown_checkpoint_lists_the_known_ones(tmp_path, which):
    make_checkpoints(tmp_path, 100, 20, 3)
    with pytest.raises(UserError) as caught:
        checkpoint.find(tmp_path, which)
    expected = f"--checkpoint={which}: no such checkpoint in {tmp_path / 'checkpoints'} (steps there: 3, 20, 100)."
    assert str(caught.value) == expected


@pytest.mark.parametrize("which", ["best", "latest", "7"])
def test_a_run_without_checkpoints_says_so(tmp_path, which):
    with pytest.raises(UserError, match=f"--checkpoint={which}: no such checkpoint .*steps there: none"):
        checkpoint.find(tmp_path, which)


@pytest.mark.parametrize(("keep", "left"), [(1, ["100", "best"]), (2, ["100", "20", "best"]), (9, ["100", "20", "3"])])
def test_prune_keeps_the_last_and_the_best(tmp_path, keep, left):
    make_checkpoints(tmp_path, 3, 20, 100, "best")
    checkpoint.prune(tmp_path / "checkpoints", keep)
    assert names_in(tmp_path / "checkpoints") == sorted({*left, "best"})


def test_prune_of_nothing_is_nothing(tmp_path):
    checkpoint.prune(tmp_path / "checkpoints", 2)
    assert names_in(tmp_path) == []


# ---- into networks and optimisers


def network(filters):
    return keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(filters, 3), keras.layers.Dense(1)])


def built_adam(model):
    adam = keras.optimizers.Adam(1e-3)
    adam.build(model.trainable_variables)
    return adam


def test_network_and_optimizer_come_back_exactly(tmp_path):
    keras.utils.set_random_seed(1)
    model = network(2)
    adam = built_adam(model)
    gradients = [np.full(v.shape, 0.1 * i + 0.1, np.float32) for i, v in enumerate(model.trainable_variables)]
    for _ in range(3):
        adam.apply(gradients)
    arrays = checkpoint.network_arrays("networks/g", model) | checkpoint.optimizer_arrays("optimizers/g", adam)
    checkpoint.save(tmp_path / "3", arrays, ABOUT)

    other = network(2)
    other_adam = built_adam(other)
    loaded, _ = checkpoint.load(tmp_path / "3")
    checkpoint.assign("networks/g", other.weights, loaded, tmp_path / "3")
    checkpoint.assign("optimizers/g", other_adam.variables, loaded, tmp_path / "3")
    assert int(other_adam.iterations) == 3
    for a, b in zip(model.weights + adam.variables, other.weights + other_adam.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    adam.apply(gradients)
    other_adam.apply(gradients)
    for a, b in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_checkpoint_of_another_size_is_refused_and_nothing_is_assigned(tmp_path):
    arrays = checkpoint.network_arrays("networks/g", network(3))
    arrays["networks/g/001"] = np.zeros(3, np.float32)
    model = network(2)
    before = [np.asarray(w) for w in model.weights]
    with pytest.raises(UserError) as caught:
        checkpoint.assign("networks/g", model.weights, arrays, tmp_path / "3")
    message = str(caught.value)
    assert message.startswith(f"checkpoint {tmp_path / '3'} was made with another size: ")
    assert "(3, 3, 1, 3) there and (3, 3, 1, 2) here" in message
    for flag in ("--image_size", "--generator_filters", "--discriminator_filters"):
        assert flag in message
    for a, b in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, np.asarray(b))


@pytest.mark.parametrize("name", ["networks/g", "averaged"])
def test_a_checkpoint_of_other_networks_is_refused(tmp_path, name):
    arrays = checkpoint.network_arrays("networks/g", network(2))
    del arrays["networks/g/003"]
    found = 3 if name == "networks/g" else 0
    with pytest.raises(UserError, match=f"holds {found} arrays of {name} and this configuration has 4: .*method"):
        checkpoint.assign(name, network(2).weights, arrays, tmp_path / "3")


def test_a_name_that_begins_like_another_is_not_counted_as_it(tmp_path):
    model = network(2)
    arrays = checkpoint.network_arrays("g", model) | checkpoint.network_arrays("g2", network(2))
    checkpoint.assign("g", model.weights, arrays, tmp_path)


def test_the_description_is_json_a_person_can_read(tmp_path):
    checkpoint.save(tmp_path / "7", ARRAYS, ABOUT)
    text = (tmp_path / "7" / "checkpoint.json").read_text()
    assert json.loads(text) == ABOUT
    assert '"step": 7' in text
