"""The commands ``predict``, ``prepare`` and ``train``: what they print, and what they refuse."""

import dataclasses
import importlib.metadata
import io
import os
import platform
import sys

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fracjax import bundle, live
from fracjax.card import render_card
from fracjax.notice import NOTICE
from fracjax.train import Progress
from image.dicom_files import dicom_bytes

THAWED = ("--set", "optimizer.frozen_stages=0")


@pytest.fixture(scope="module")
def fracjax(run_python):
    return lambda *arguments, **environment: run_python("-m", "fracjax", *arguments, **environment)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "no extension"
    pixels = np.random.default_rng(0).integers(0, 256, (80, 100), np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")
    return path


def refused(done, exit_code=2):
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("fracjax: ")
    return lines[0]


def test_predict_says_what_the_number_is(fracjax, image, tiny_bundle):
    done = fracjax("predict", image, "--bundle", tiny_bundle)
    assert done.returncode == 0, done.stderr
    notice, answer, *_ = done.stdout.splitlines()
    assert notice == NOTICE
    assert 0 <= float(answer.split()[0]) <= 1
    assert "not calibrated" in done.stdout
    assert "fracture" in answer
    assert "AUROC" in done.stdout


def test_predict_on_several_devices(fracjax, image, tiny_bundle):
    one = fracjax("predict", image, "--bundle", tiny_bundle)
    flags = "--xla_force_host_platform_device_count=8"
    eight = fracjax("predict", image, "--bundle", tiny_bundle, XLA_FLAGS=flags)
    assert eight.returncode == 0, eight.stderr
    assert eight.stdout == one.stdout


@pytest.mark.parametrize("what", ["missing", "text", "folder", "pipe", "empty"])
def test_predict_refuses(what, fracjax, tiny_bundle, tmp_path):
    path = tmp_path / what
    if what == "text":
        path.write_text("Dear colleague")
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "empty":
        path.touch()
    assert str(path) in refused(fracjax("predict", path, "--bundle", tiny_bundle))


@pytest.mark.parametrize(
    ("elements", "exit_code", "way_out"),
    [
        ({"BodyPartExamined": "CHEST"}, 3, "the model does not know this body part"),
        ({"PresentationIntentType": "FOR PROCESSING"}, 3, "export it FOR PRESENTATION"),
        ({"Modality": "CT"}, 3, "give a radiograph"),
        ({"PixelData": b""}, 2, "give a radiograph"),
    ],
)
def test_predict_says_why_an_image_has_no_score(
    elements, exit_code, way_out, fracjax, tiny_bundle, tmp_path
):
    pixels = np.random.default_rng(0).integers(20, 200, (90, 70), np.uint32)
    (tmp_path / "dicom").write_bytes(dicom_bytes(pixels, bits=8, **elements))
    done = fracjax("predict", tmp_path / "dicom", "--bundle", tiny_bundle)
    assert way_out in refused(done, exit_code).rpartition("; ")[2]


def test_predict_of_an_unfamiliar_picture_exits_with_3(fracjax, image, tiny_bundle, tmp_path):
    manifest = bundle.load(tiny_bundle).manifest
    strict = dataclasses.replace(manifest.gate, threshold=1e-6)
    manifest = dataclasses.replace(manifest, gate=strict)
    weights, gate = (tiny_bundle / name for name in (bundle.WEIGHTS_NAME, bundle.GATE_NAME))
    contents = (manifest, weights.read_bytes(), gate.read_bytes(), render_card(manifest))
    bundle.write(tmp_path / "bundle", *contents)
    done = fracjax("predict", image, "--bundle", tmp_path / "bundle")
    assert (done.returncode, done.stderr) == (3, "")
    assert "no likelihood: the picture is unlike" in done.stdout


def test_predict_documents_its_exit_codes(fracjax):
    said = " ".join(fracjax("predict", "--help").stdout.split())
    assert "Exit codes: 0 scored; 2 bad usage, or the file cannot be read; 3 no likelihood" in said


def test_version_names_what_is_installed_and_needs_no_jax(run_python):
    program = """
import sys
from fracjax import cli
sys.argv = ["fracjax", "--version"]
try:
    cli.main()
finally:
    print("imported:", [name for name in ("jax", "numpy", "cv2") if name in sys.modules])
"""
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr
    versions = {name: importlib.metadata.version(name) for name in ("fracjax", "jax")}
    assert done.stdout.splitlines() == [
        f"fracjax {versions['fracjax']}",
        f"Python {platform.python_version()}",
        f"jax {versions['jax']}",
        NOTICE,
        "imported: []",
    ]


def test_no_command_shows_the_help(fracjax):
    done, helped = fracjax(), fracjax("--help")
    assert (done.returncode, helped.returncode) == (2, 0)
    assert done.stdout == helped.stdout
    assert "score-dir" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["score-dir", "export", "--ouut", "w"], "--out"),
        (["score-dir", "export"], "Missing option '--out'; see "),
        (["score-dir", "export", "--out"], "requires an argument; see "),
        (["predit", "x"], "Did you mean 'predict'?"),
        (["train", "--workdir", "W", "--image-size", "big"], "'--image-size'"),
        (["--colour"], "--colour"),
        (["predict", ""], "empty"),
        (["score-dir", "", "--out", "w.parquet"], "empty"),
    ],
)
def test_misuse_is_one_line_that_leads_to_the_help(arguments, says, fracjax):
    message = refused(fracjax(*arguments))
    assert says in message
    assert message.endswith(" --help")


@pytest.mark.parametrize("command", ["predict", "prepare", "score-dir"])
def test_arguments_that_are_too_many_are_counted_and_not_shown(command, fracjax):
    options = {"prepare": ["--archive-dir", "."], "score-dir": ["--out", "w.parquet"]}
    paths = [f"export/BURNS {number}" for number in range(4)]
    message = refused(fracjax(command, *paths, *options.get(command, [])))
    assert "too many arguments, by 3; see " in message
    assert "BURNS" not in message


def test_misuse_cannot_drive_a_terminal(fracjax):
    for arguments in (["\u202eexe", "x"], ["predict", "--\u202eexe\x1b[2J"]):
        message = refused(fracjax(*arguments))
        assert message.isprintable()
        assert r"\u202eexe" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads whatever the permissions")
def test_a_bundle_that_cannot_be_read_is_one_line(fracjax, image, tmp_path):
    tmp_path.chmod(0)
    try:
        assert "not readable" in refused(fracjax("predict", image, "--bundle", tmp_path))
    finally:
        tmp_path.chmod(0o700)


def test_an_audit_that_could_not_be_reported_is_not_begun(fracjax, tmp_path):
    report = tmp_path / "none/report.md"
    said = refused(fracjax("data", "audit", "frac_atlas", "--report", report))
    assert f"{report.parent} is no folder" in said  # and not that the data set is missing


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_run_shows_its_steps_and_what_follows_them(is_terminal):
    now = Progress(120, 480, 1.5, 0.4321, 812.3, 75.0, None, "loss", None)
    output = io.StringIO()
    console = Console(file=output, force_terminal=is_terminal, width=200, color_system=None)
    with console.status("") as status:
        line = live.TrainingLine(console, status)
        line.step(now)
        line.step(dataclasses.replace(now, step=130))
        for done in (0, 8, 16):
            line.stage("measuring, pass 1 of 3", done, 20)
        shown = str(status.status)
    assert shown == "measuring, pass 1 of 3: 16 of 20 images"
    lines = [said for said in output.getvalue().splitlines() if "step 1" in said or "pass" in said]
    if not is_terminal:
        assert [said[:9] for said in lines] == ["step 120/", "step 130/", "measuring"]
        assert lines[-1] == "measuring, pass 1 of 3: 20 images"


@pytest.mark.parametrize(
    ("number", "way_out"), [("ENOSPC", "make room"), ("ENOENT", "check that the path exists")]
)
def test_what_the_system_refuses_is_one_line_with_the_way_out(run_python, number, way_out):
    program = f"""
import errno, os
from fracjax import cli
def app(**_):
    raise OSError(errno.{number}, os.strerror(errno.{number}), "worklist.parquet")
cli.app = app
cli.main()
"""
    done = run_python("-c", program)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("fracjax: worklist.parquet: ")
    assert way_out in done.stderr


def test_a_crash_leaves_no_core_dump(run_python):
    program = """
import ctypes, resource, sys
from fracjax import cli
sys.argv = ["fracjax", "--version"]
try:
    cli.main()
finally:
    print(*resource.getrlimit(resource.RLIMIT_CORE))
    if sys.platform == "linux":
        print(ctypes.CDLL(None).prctl(3))  # PR_GET_DUMPABLE
"""
    done = run_python("-c", program)
    expected = ["0 0", "0"] if sys.platform == "linux" else ["0 0"]
    assert done.stdout.splitlines()[4:] == expected, done.stderr


def test_predict_refuses_a_bundle_without_its_headline_figure(
    fracjax, image, tiny_bundle, tmp_path
):
    manifest = dataclasses.replace(bundle.load(tiny_bundle).manifest, figures={})
    weights, gate = (tiny_bundle / name for name in (bundle.WEIGHTS_NAME, bundle.GATE_NAME))
    bundle.write(tmp_path / "bundle", manifest, weights.read_bytes(), gate.read_bytes(), "card")
    assert bundle.HEADLINE in refused(fracjax("predict", image, "--bundle", tmp_path / "bundle"))


@pytest.mark.parametrize("where", ["a file", "/proc/fracjax"])
def test_directories_that_cannot_be_made(where, fracjax, data_dir, tmp_path):
    target = tmp_path / where
    if where == "a file":
        target.touch()
    small = ["--image-size", "32", "--set", "model.name=resnet14", *THAWED]
    small += ["--set", "optimizer.batch_size=4", "--set", "data.select=0"]
    message = refused(fracjax("train", "--workdir", target, "--data-dir", data_dir, *small))
    assert str(target) in message
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--workdir", "W", "--image-size", "0"], "image size 0"),
        (["train", "--workdir", "W", "--config", "best"], "fracatlas_resnet50"),
        (["train", "--workdir", "W", "--set", "optimizer.epochs=many"], "optimizer.epochs"),
        (["train", "--workdir", "W", "--data-dir", "nowhere", *THAWED], "fracjax prepare"),
        (["train", "--workdir", "W", "--weights", "absent.safetensors"], "prepared frac_atlas"),
        (["prepare", "chexpert", "--archive-dir", "."], "frac_atlas"),
    ],
)
def test_bad_arguments_are_one_line(arguments, says, fracjax, tmp_path):
    arguments = [str(tmp_path / "W") if argument == "W" else argument for argument in arguments]
    assert says in refused(fracjax(*arguments))
    assert not (tmp_path / "W").exists()


def test_prepare_counts_its_splits_and_leaves_nothing_when_it_fails(fracjax, tmp_path):
    archive = "tfds_mura/mura/dummy_data"
    done = fracjax("prepare", "mura", "--archive-dir", archive, "--data-dir", tmp_path / "data")
    assert done.returncode == 0, done.stderr
    assert "train:" in done.stdout
    assert "valid:" in done.stdout
    failed = fracjax("prepare", "mura", "--archive-dir", tmp_path, "--data-dir", tmp_path / "none")
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "none").exists()
