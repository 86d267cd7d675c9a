"""benchmarks/arm_emulated.py: what it counts and says, without an emulator."""

import sys

import numpy as np
import pytest
from fixtures import benchmark, pages

sys.path.append(str(pages.ROOT / "benchmarks"))
script = benchmark.load("arm_emulated")
RESULTS = pages.ROOT / "docs" / "results"

LOG = """----------------
IN: start
0x00001000:  d503201f  nop
0x00001004:  d65f03c0  ret

Trace 0: 0x7f00 [00001001/0000000000001000/00000001/00008200] start

MARK a file.tflite 0
Trace 0: 0x7f00 [00001001/0000000000001000/00000001/00008200] start
----------------
IN:
0x00002000:  4e20cc00  fmla     v0.4s, v0.4s, v0.4s
0x00002004:  4e20cc00  fmla     v0.4s, v0.4s, v0.4s
0x00002008:  54000001  b.ne     #0x2000
Trace 0: 0x7f10 [00001001/0000000000002000/00000001/00008200]
Trace 0: 0x7f10 [00001001/0000000000002000/00000001/00008200]

MARK
Trace 0: 0x7f10 [00001001/0000000000002000/00000001/00008200]

MARK a file.tflite 1
Trace 0: 0x7f00 [00001001/0000000000001000/00000001/00008200]

MARK
"""


def test_blocks_count_as_often_as_they_run_between_marks():
    assert script.tally(LOG.splitlines(keepends=True)) == {
        "a file.tflite": [
            {"nop": 1, "ret": 1, "fmla": 4, "b.ne": 2},
            {"nop": 1, "ret": 1},
        ]
    }


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        ([[1.0, 2.0]], "right"),
        ([[1.0, 2.1]], "wrong"),
        ([[1.0, np.nan]], "wrong"),
        ([[1.0]], "wrong"),
    ],
)
def test_right_is_what_keras_answers_in_shape_and_value(tmp_path, found, answer):
    np.savez(tmp_path / "want.npz", y=np.array([[1.0, 2.0]]))
    np.savez(tmp_path / "sparse.npz", y=np.array(found))
    row = {"error": "", "difference": script.difference(tmp_path / "sparse.tflite")}
    assert script.arm_page.answer(row) == answer


def test_the_page_is_made_of_the_rows(tmp_path):
    for name in ("arm", "after_cluster.csv"):
        (tmp_path / name).symlink_to(RESULTS / name)
    script.arm_page.write(tmp_path)
    assert (tmp_path / "arm.md").read_text() == (RESULTS / "arm.md").read_text()
