"""The paper's tables beside measured values: as printed, marked, in the units that they may mean."""

from __future__ import annotations

import pytest

from spear.errors import SpearError
from spear.published import beside


def test_the_paper_as_it_is_printed() -> None:
    rows = beside("paper", {})
    assert [sum(row["table"] == table for row in rows) for table in (1, 2, 3)] == [8, 5, 4]
    assert not any(row["measured"] for row in rows)
    assert {"table": 1, "model": "SPEAR", "measured": False, "ld": 1.84, "lvd": 1.28} in rows
    assert {"table": 2, "model": "IP_LAP", "measured": False, "psnr": 32.91, "ssim": 0.93, "fid": 27.87} in rows
    assert {"table": 3, "model": "HuBERT", "measured": False, "ld": 1.8394, "lvd": 1.2813} in rows


def test_measured_values_stand_beside_it() -> None:
    rows = beside("paper", {"ld_percent": 0.8, "ld_px256": 1.4, "psnr_crop": 38.0, "fid": None})
    measured = [row for row in rows if row["measured"]]
    here = {"model": "here, % of face width", "measured": True, "ld": 0.8, "lvd": None}
    assert measured[0] == here | {"table": 1}
    assert measured[1]["ld"] == 1.4
    assert measured[2] == {
        "table": 2,
        "model": "here, face crop",
        "measured": True,
        "psnr": 38.0,
        "ssim": None,
        "fid": None,
    }
    assert measured[3] == here | {"table": 3}


def test_another_source() -> None:
    with pytest.raises(SpearError, match="--against nature is not known; give --against paper"):
        beside("nature", {})
