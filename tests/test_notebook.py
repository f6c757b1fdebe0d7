"""The notebook in examples runs from top to bottom, and shows what it says that it shows."""

import json
import os
from pathlib import Path

import pytest

from fracjax.notice import NOTICE

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

REPOSITORY = Path(__file__).parents[1]

CHECKS = """
import json

print(json.dumps({
    "map": likelihood_map.shape,
    "picture": seen.shape,
    "fall": float(likelihood_map.max() - likelihood_map.min()),
    "auroc": manifest.figures["auroc_study"].value,
    "losses": [row["loss"] for row in record],
    "ranks": [study["rank"] for study in worklist if study["rank"] is not None],
    "likelihoods": [study["likelihood"] for study in worklist if study["rank"] is not None],
    "scored": summary.images_scored,
}))
"""
"""A last cell, which tells the test what the notebook has found."""


@pytest.fixture(scope="module")
def notebook():
    """The notebook as it is committed."""
    return nbformat.read(REPOSITORY / "examples/train_small.ipynb", as_version=4)


def test_the_notebook_is_committed_without_outputs(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_notebook_runs_and_shows_what_it_says(
    notebook, tmp_path, compilation_cache, monkeypatch
):
    for name, value in compilation_cache.items():
        monkeypatch.setenv(name, value)  # the kernel inherits it
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "jobs")]))
    executed = nbformat.from_dict(notebook)
    executed.cells.append(nbformat.v4.new_code_cell(CHECKS))
    client = nbclient.NotebookClient(
        executed, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()

    printed = [
        output.text
        for cell in executed.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stdout"
    ]
    found = json.loads(printed[-1])
    assert found["map"] == found["picture"] == [64, 64]
    assert found["fall"] > 0.05
    assert found["auroc"] > 0.8
    assert found["losses"][-1] < found["losses"][0] / 2
    assert found["scored"] == 18
    assert found["ranks"] == list(range(1, len(found["ranks"]) + 1))
    assert len(found["ranks"]) > 9
    assert found["likelihoods"] == sorted(found["likelihoods"], reverse=True)
    assert (tmp_path / "train_small/worklist.parquet").is_file()
    assert any(NOTICE in text for text in printed)
