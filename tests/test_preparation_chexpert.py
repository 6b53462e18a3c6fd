"""CheXpert's two tables and folders, with noise for radiographs: who is healthy, who is diseased, who is left out."""

import shutil

import pytest
from raw_files import HEADER, chexpert, listed, table

from descargan_tf.errors import UserError
from descargan_tf.preparation.splitting import split_by_patient
from descargan_tf.types import DISEASED, HEALTHY

FRONTAL = ("Frontal", "AP")
# split, patient, study, file, view, projection, then No Finding, Cardiomegaly, Pleural Effusion, Support Devices
ROWS = [
    ("train", 1, 1, "view1_frontal", *FRONTAL, "1.0", "", "", "1.0"),
    ("train", 1, 1, "view2_lateral", "Lateral", "", "1.0", "", "", ""),
    ("train", 2, 1, "view1_frontal", "Frontal", "PA", "", "1.0", "1.0", ""),
    ("train", 2, 2, "view1_frontal", *FRONTAL, "", "", "-1.0", ""),
    ("train", 3, 1, "view1_frontal", *FRONTAL, "", "-1.0", "", ""),
    ("train", 4, 1, "view1_frontal", *FRONTAL, "", "", "0.0", ""),
    ("train", 5, 1, "view1_frontal", *FRONTAL, "1.0", "", "-1.0", ""),
    ("train", 6, 1, "view1_frontal", *FRONTAL, "1.0", "", "1.0", ""),
    ("valid", 64541, 1, "view1_frontal", *FRONTAL, "1.0", "0.0", "0.0", "0.0"),
    ("valid", 64542, 1, "view1_frontal", *FRONTAL, "0.0", "0.0", "1.0", "0.0"),
]


def labels(listing):
    return {image.source: image.label for image in listing.images}


def refusal(root, **options):
    with pytest.raises(UserError) as caught:
        listed("chexpert", root, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", ["CheXpert-v1.0", "CheXpert-v1.0-small"])
@pytest.mark.parametrize("below", [True, False])
def test_both_names_are_found_from_the_folder_and_from_above(tmp_path, name, below):
    folder = chexpert(tmp_path, ROWS, name)
    listing = listed("chexpert", folder if below else tmp_path)
    assert labels(listing) == {
        "train/patient00001/study1/view1_frontal.jpg": HEALTHY,
        "train/patient00002/study1/view1_frontal.jpg": DISEASED,
        "valid/patient64541/study1/view1_frontal.jpg": HEALTHY,
        "valid/patient64542/study1/view1_frontal.jpg": DISEASED,
    }
    assert not listing.problems


def test_a_renamed_folder_is_found_whatever_its_tables_call_it(tmp_path):
    folder = chexpert(tmp_path, ROWS, "my_copy", called="CheXpert-v1.0")
    assert len(listed("chexpert", folder).images) == 4


@pytest.mark.parametrize("below", [True, False])
def test_the_archives_of_the_full_size_are_read_as_they_are_unpacked(tmp_path, below):
    folder = chexpert(tmp_path, ROWS, "CheXpert-v1.0 batch 1 (validate & csv)", called="CheXpert-v1.0")
    for batch, patients in (("2 (train 1)", (1, 2)), ("3 (train 2)", (3, 4, 5, 6))):
        for patient in patients:
            moved = tmp_path / f"CheXpert-v1.0 batch {batch}" / f"patient{patient:05d}"
            moved.parent.mkdir(exist_ok=True)
            (folder / "train" / moved.name).rename(moved)
    (folder / "train").rmdir()
    listing = listed("chexpert", folder if below else tmp_path, view="all")
    assert not listing.problems
    assert [image.source for image in listing.images] == list(
        labels(listed("chexpert", chexpert(tmp_path / "one", ROWS), view="all"))
    )
    assert listing.images[0].path.is_relative_to(tmp_path / "CheXpert-v1.0 batch 2 (train 1)")
    assert (listing.images[2].patient, listing.images[2].label) == ("patient00002", DISEASED)
    shutil.rmtree(tmp_path / "CheXpert-v1.0 batch 2 (train 1)")
    (problem, *_) = listed("chexpert", tmp_path).problems
    assert problem.startswith("train.csv, line 2: train/patient00001/study1/view1_frontal.jpg: missing in ")


def test_what_is_known_of_an_image(tmp_path):
    image = listed("chexpert", chexpert(tmp_path, ROWS)).images[1]
    assert (image.patient, image.study, image.view, image.split) == ("patient00002", "study1", "frontal PA", None)


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    assert listed("chexpert", chexpert(tmp_path, ROWS)).notes == [
        "left out: 1 lateral views (--view=frontal)",
        "left out: 1 that say both No Finding and Pleural Effusion",
        "left out: 2 where Pleural Effusion is uncertain (--uncertain=drop)",
        "left out: 2 with neither No Finding nor Pleural Effusion",
    ]


def test_uncertain_can_be_taken_for_either(tmp_path):
    folder = chexpert(tmp_path, ROWS)
    positive = labels(listed("chexpert", folder, uncertain="positive"))
    assert positive["train/patient00002/study2/view1_frontal.jpg"] == DISEASED
    assert "train/patient00005/study1/view1_frontal.jpg" not in positive  # it says No Finding as well
    negative = labels(listed("chexpert", folder, uncertain="negative"))
    assert "train/patient00002/study2/view1_frontal.jpg" not in negative
    assert negative["train/patient00005/study1/view1_frontal.jpg"] == HEALTHY


def test_other_views_and_findings(tmp_path):
    folder = chexpert(tmp_path, ROWS)
    assert labels(listed("chexpert", folder, view="lateral")) == {
        "train/patient00001/study1/view2_lateral.jpg": HEALTHY
    }
    assert len(listed("chexpert", folder, view="all").images) == 5
    assert labels(listed("chexpert", folder, finding="Cardiomegaly"))[
        "train/patient00002/study1/view1_frontal.jpg"
    ] == (DISEASED)


def test_an_unknown_finding_lists_the_known(tmp_path):
    folder = chexpert(tmp_path, ROWS)
    assert refusal(folder, finding="Effusion") == (
        f"--finding=Effusion: {folder}/train.csv has no such column; there are: Cardiomegaly, Pleural Effusion, "
        "Support Devices."
    )
    assert refusal(folder, finding="No Finding").startswith("--finding=No Finding is what makes an image healthy")


def test_columns_and_tables_that_are_missing_are_named(tmp_path):
    assert refusal(tmp_path) == (
        f"--input={tmp_path}: neither train.csv nor valid.csv lies there, nor in CheXpert-v1.0 or CheXpert-v1.0-small "
        "or CheXpert-v1.0 batch 1 below it: name the folder that CheXpert was unpacked to."
    )
    table(tmp_path / "train.csv", [], [name for name in HEADER if name not in ("No Finding", "Frontal/Lateral")])
    assert refusal(tmp_path).startswith(f"{tmp_path}/train.csv: columns Frontal/Lateral, No Finding missing")


def test_rows_and_files_that_cannot_be_used_are_named(tmp_path):
    folder = chexpert(tmp_path, ROWS)
    (folder / "train/patient00001/study1/view1_frontal.jpg").unlink()
    path = "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg"
    bad = [
        (path, "", "", "Oblique", "", "1.0", "", "", ""),
        (path, "", "", *FRONTAL, "yes", "", "", ""),
        ("elsewhere/../../x.jpg", "", "", *FRONTAL, "1.0", "", "", ""),
        (path, "", "", *FRONTAL, "1.0", "", "", ""),
        (path, "", "", *FRONTAL, "1.0", "", "", ""),
    ]
    table(folder / "valid.csv", bad, HEADER)
    assert listed("chexpert", folder).problems == [
        f"train.csv, line 2: train/patient00001/study1/view1_frontal.jpg: missing in {folder}",
        "valid.csv, line 2: Frontal/Lateral is neither Frontal nor Lateral",
        "valid.csv, line 3: No Finding is none of 1.0, 0.0, -1.0 and nothing",
        "valid.csv, line 4: Path is not such as CheXpert-v1.0/train/patient00001/study1/view1.jpg",
        "valid.csv, line 6: valid/patient64541/study1/view1_frontal.jpg: named before",
    ]


def test_links_out_of_the_collection_are_not_followed(tmp_path):
    folder = chexpert(tmp_path / "in", ROWS)
    (tmp_path / "secret.png").touch()
    image = folder / "train/patient00001/study1/view1_frontal.jpg"
    image.unlink()
    image.symlink_to(tmp_path / "secret.png")
    mask = folder / "ground_truth/train/patient00002/study1/view1_frontal.png"
    mask.parent.mkdir(parents=True)
    mask.symlink_to(tmp_path / "secret.png")
    problems = listed("chexpert", folder).problems
    assert [problem.partition(": ")[2].partition(": bring")[0] for problem in problems] == [
        f"{path.relative_to(folder)}: a link leads out of {folder}, to {tmp_path}/secret.png" for path in (image, mask)
    ]


def test_a_folder_that_lies_elsewhere_is_one_line_with_what_to_do(tmp_path):
    folder = chexpert(tmp_path / "in", ROWS)
    (folder / "train").rename(tmp_path / "disk")
    (folder / "train").symlink_to(tmp_path / "disk")
    assert refusal(folder) == (
        f"{folder}/train: a link leads out of {folder}, to {tmp_path}/disk: as --input, name a folder in which train "
        "itself lies, with train.csv and valid.csv beside it."
    )
    (tmp_path / "disk").rename(folder / "train0")
    (folder / "train").unlink()
    (folder / "train").symlink_to("train0")
    assert not listed("chexpert", folder).problems


def test_the_papers_split_is_by_patient_with_its_numbers_beside(tmp_path):
    rows = [
        ("train", patient, study, "view1_frontal", *FRONTAL, *(("1.0", "", "") if patient % 2 else ("", "", "1.0")), "")
        for patient in range(1, 460)
        for study in (1, 2)
    ]
    listing = listed("chexpert", chexpert(tmp_path, rows[:-2] + ROWS[-2:], files=False))
    assert len(listing.problems) == 918  # without files every row is missed
    assert listing.beside == {("train", HEALTHY): "paper: 14,179", ("train", DISEASED): "paper: 16,776"}
    folder = chexpert(tmp_path / "whole", [row for row in rows if row[1] < 430])
    splitting = split_by_patient(listed("chexpert", folder).images, {"validate": 200, "test": 200}, 0)
    for split in ("validate", "test"):
        for label in (HEALTHY, DISEASED):
            assert sum((image.split, image.label) == (split, label) for image in splitting.images) == 200
    patients = {}
    for image in splitting.images:
        patients.setdefault(image.patient, set()).add(image.split)
    assert all(len(splits) == 1 for splits in patients.values())
