"""Writing: records and columns agree, the number of processes does not matter, a broken run leaves nothing behind."""

import hashlib
import pathlib
import shutil
import subprocess
import sys
import textwrap
import time

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxpose.data.formats import storage
from jaxpose.errors import StorageError
from jaxpose.marionettes import MarionettesConfig, builder, picture, prepare, sequence
from jaxpose.marionettes import examples as records

SMALL = {"width": 64, "height": 64, "train": 6, "validation": 2}
CONFIG = MarionettesConfig(**SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(CONFIG, tmp_path_factory.mktemp("data"), workers=1, progress=False)


def source(folder, split):
    reader = tfds.builder_from_directory(folder)
    return reader.as_data_source(
        split, decoders={"image": tfds.decode.SkipDecoding()} if "image" in reader.info.features else None
    )


def contents(folder):
    """Digests of every file, and of every field of every record."""
    out = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}
    for split in ("train", "validation"):
        for i, record in enumerate(source(folder, split)):
            fields = [f"{k}{np.asarray(v).dtype}".encode() + np.asarray(v).tobytes() for k, v in sorted(record.items())]
            out[f"{split} {i}"] = hashlib.sha256(b"".join(fields)).hexdigest()
    return out


def test_records_are_the_pictures_in_order(folder):
    data = source(folder, "train")
    assert len(data) == 6
    people = 0
    for index in (0, 3, 5):
        record, made = data[index], picture(CONFIG, "train", index)
        assert record["image_id"] == index + 1
        assert record["file_name"] == f"train/{index:06d}.jpg".encode()
        np.testing.assert_array_equal(record["joints"], made.joints_2d)
        np.testing.assert_array_equal(record["joints_3d"], made.joints_3d)
        np.testing.assert_array_equal(record["box"], made.box)
        np.testing.assert_array_equal(record["intrinsics"], made.intrinsics)
        image = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(image.astype(int) - made.image).mean() < 6.0
    for record in data:
        assert record["person_id"].tolist() == list(range(people + 1, people + 1 + len(record["area"])))
        people += len(record["area"])
    assert len(source(folder, "validation")) == 2
    assert "tensorflow" not in sys.modules


def test_columns_repeat_the_records(folder):
    for split in ("train", "validation"):
        data, table = source(folder, split), np.load(folder / f"annotations-{split}.npz")
        assert table["image_id"].tolist() == [r["image_id"] for r in data]
        assert table["file_name"].tolist() == [r["file_name"].decode() for r in data]
        for name in ("person_id", "track_id", "box", "area", "crowd", "joints", "joints_3d"):
            np.testing.assert_array_equal(table[name], np.concatenate([r[name] for r in data]))
        for name in ("width", "height", "clip", "frame", "intrinsics", "rotation", "translation"):
            np.testing.assert_array_equal(table[name], np.stack([r[name] for r in data]))
        assert table["person_image"].tolist() == [i for i, r in enumerate(data) for _ in r["area"]]


def test_clips_are_one_record_a_frame(tmp_path):
    config = MarionettesConfig(scene="clip", width=64, height=64, frames=3, train=2, validation=0)
    data = source(prepare(config, tmp_path, workers=1, progress=False), "train")
    assert [(r["clip"], r["frame"], r["image_id"]) for r in data] == [
        (0, 0, 1), (0, 1, 2), (0, 2, 3), (1, 0, 4), (1, 1, 5), (1, 2, 6),
    ]  # fmt: skip
    assert data[4]["file_name"] == b"train/000001/0001.jpg"


def test_sequences_have_no_pictures(tmp_path):
    config = MarionettesConfig(scene="sequence", width=500, height=500, frames=9, train=2, validation=1)
    folder = prepare(config, tmp_path, workers=1, progress=False)
    record, made = source(folder, "train")[1], sequence(config, "train", 1)
    assert record["action"].decode() == made.action
    np.testing.assert_array_equal(record["detections"], made.detections)
    np.testing.assert_array_equal(record["joints"], made.joints_2d)
    table = np.load(folder / "annotations-train.npz")
    assert table["joints_3d"].shape == (2, 9, 25, 3)
    np.testing.assert_array_equal(table["visibility_score"][1], made.visibility_score)


def test_data_do_not_depend_on_the_number_of_processes(folder, tmp_path):
    two = prepare(CONFIG, tmp_path, workers=2, progress=False)
    assert len(contents(two)) == 6 + 6 + 3
    assert contents(two) == contents(folder)


def test_one_line_says_what_is_rendered_and_where(tmp_path, capsys, caplog):
    with caplog.at_level("INFO", "jaxpose"):
        folder = prepare(CONFIG, tmp_path, workers=1, progress=False)
        prepare(CONFIG, tmp_path, workers=1, progress=False)
    assert caplog.messages == [f"rendering 8 marionettes (single) to {folder}; this happens once"]
    assert capsys.readouterr().out == ""


def test_a_second_call_writes_nothing(folder):
    before = {f: f.stat().st_mtime_ns for f in folder.iterdir()}
    started = time.monotonic()
    assert prepare(CONFIG, folder.parents[2], workers=1, progress=False) == folder
    assert time.monotonic() - started < 5.0
    assert {f: f.stat().st_mtime_ns for f in folder.iterdir()} == before


def test_a_killed_run_leaves_nothing_and_the_next_one_finishes(folder, tmp_path):
    script = f"""
        import os, signal, sys
        sys.path[:0] = {sys.path!r}
        from jaxpose.marionettes import MarionettesConfig, builder
        builder.write_columns = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        builder.prepare(MarionettesConfig(**{SMALL!r}), {str(tmp_path)!r}, workers=1, progress=False)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, check=False)
    assert run.returncode == -9
    expected = tmp_path / folder.relative_to(folder.parents[2])
    assert not expected.exists()
    assert list(expected.parent.glob("incomplete.*"))
    assert prepare(CONFIG, tmp_path, workers=1, progress=False) == expected
    assert contents(expected) == contents(folder)
    assert not list(expected.parent.glob("incomplete.*"))


def test_an_error_midway_leaves_nothing(tmp_path, monkeypatch):
    def broken(config, split, index):
        if index == 3:
            raise OSError("disk on fire")
        return made(config, split, index)

    made = records.records
    monkeypatch.setattr(records, "records", broken)
    with pytest.raises(StorageError, match="1.0.0: cannot be written .disk on fire."):
        prepare(CONFIG, tmp_path, workers=1, progress=False)
    assert not list(tmp_path.rglob("dataset_info.json"))
    assert not list(tmp_path.rglob("incomplete.*"))
    monkeypatch.undo()
    assert (prepare(CONFIG, tmp_path, workers=1, progress=False) / "checksums.json").is_file()


def test_a_full_disk_is_told(folder, tmp_path):
    """Nothing that looks whole is left, and the same command goes on once there is room."""
    script = f"""
        import resource, signal, sys
        sys.path[:0] = {sys.path!r}
        from jaxpose.errors import StorageError
        from jaxpose.marionettes import MarionettesConfig, prepare
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            prepare(MarionettesConfig(**{SMALL!r}), {str(tmp_path)!r}, workers=1, progress=False)
        except StorageError as error:
            print("told:", error)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert "told: " in run.stdout, run.stderr[-2000:]
    assert not list(tmp_path.rglob("dataset_info.json"))
    assert contents(prepare(CONFIG, tmp_path, workers=1, progress=False)) == contents(folder)


@pytest.mark.parametrize("name", ["annotations-train.npz", "dataset_info.json", "features.json", "checksums.json"])
def test_a_damaged_folder_is_written_anew(folder, tmp_path, caplog, name):
    copy = tmp_path / folder.relative_to(folder.parents[2])
    for data in (b"", b"{}", (folder / name).read_bytes()[:-9], (folder / name).read_bytes().replace(b"a", b"b", 1)):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        (copy / name).write_bytes(data)
        caplog.clear()
        assert prepare(CONFIG, tmp_path, workers=1, progress=False) == copy
        assert contents(copy) == contents(folder)
        assert "it is written anew" in caplog.text


def test_a_folder_of_records_that_are_cut_off_is_written_anew(folder, tmp_path):
    copy = tmp_path / folder.relative_to(folder.parents[2])
    shutil.copytree(folder, copy)
    (records_file,) = copy.glob("marionettes-train*")
    records_file.write_bytes(records_file.read_bytes()[:-1])
    assert contents(prepare(CONFIG, tmp_path, workers=1, progress=False)) == contents(folder)


def test_a_folder_without_a_list_of_files_is_taken(folder, tmp_path):
    """As folders were written before."""
    copy = tmp_path / folder.relative_to(folder.parents[2])
    shutil.copytree(folder, copy)
    (copy / "checksums.json").unlink()
    before = contents(copy)
    assert prepare(CONFIG, tmp_path, workers=1, progress=False) == copy
    assert contents(copy) == before


def test_two_runs_at_once_share_one_result(folder, tmp_path):
    script = f"""
        import sys
        sys.path[:0] = {sys.path!r}
        from jaxpose.marionettes import MarionettesConfig, prepare
        print(prepare(MarionettesConfig(**{SMALL!r}), {str(tmp_path)!r}, workers=1, progress=False))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(2)]
    places = {run.communicate()[0].splitlines()[-1] for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    (place,) = places
    assert contents(pathlib.Path(place)) == contents(folder)


def test_a_script_without_a_guard_is_told_so(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from jaxpose.marionettes import MarionettesConfig, prepare\n"
        f"prepare(MarionettesConfig(**{SMALL!r}), {str(tmp_path / 'data')!r}, workers=2, progress=False)\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode != 0
    assert 'if __name__ == "__main__":' in run.stderr.splitlines()[-1]


def test_column_files_hold_no_time_of_writing(tmp_path):
    table = {"a": np.arange(5), "b": np.ones((2, 3), np.float32)}
    storage.write_columns(tmp_path / "one.npz", table)
    time.sleep(2.1)  # the resolution of a zip file's clock is two seconds
    storage.write_columns(tmp_path / "two.npz", table)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    np.testing.assert_array_equal(np.load(tmp_path / "one.npz")["b"], table["b"])


def test_a_sheet_can_be_drawn(tmp_path):
    output = tmp_path / "sheet.png"
    command = [sys.executable, "-m", "jaxpose", "marionettes", "--count", "3", "--columns", "2", "--size", "64", "64"]
    root = pathlib.Path(builder.__file__).parents[2]
    subprocess.run([*command, "--skeleton", "--zoom", "2", "--output", str(output)], check=True, cwd=root)
    assert cv2.imread(str(output)).shape == (256, 256, 3)
