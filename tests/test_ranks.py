"""What a process of torchrun does of work that is shared by clips, and what its samples count for in a batch."""

from __future__ import annotations

import itertools

import pytest
import torch

from spear.errors import SpearError
from spear.losses import masked_mse
from spear.pretrained.perceptual import PerceptualLoss
from spear.ranks import scored_by_ranks, share_of_rank
from spear.scores.compare import Scores
from spear.shards import Shard, choose_shard, own_part
from spear.training_task import Part
from spear.workers import Workers


def test_a_process_has_its_part_of_the_clips_and_its_own_gpu() -> None:
    of_rank_2 = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "OTHER": "1"}
    assert choose_shard(None, of_rank_2) == Shard(2, 4)
    assert choose_shard("1/9", of_rank_2) == Shard(0, 9)
    array = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "3"}
    assert choose_shard(None, of_rank_2 | array) == Shard(6, 12)  # the third of four in the second of three
    assert own_part(None, of_rank_2) == Shard(2, 4)
    assert of_rank_2 == {"RANK": "2", "OTHER": "1", "CUDA_VISIBLE_DEVICES": "0"}
    seen = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "4,7"}
    own_part(None, seen)
    assert seen["CUDA_VISIBLE_DEVICES"] == "7"


def test_shares_of_a_part_are_disjoint_and_together_the_part() -> None:
    names, part = [f"clip{i}" for i in range(300)], Shard(1, 3)
    shares = [[name for name in names if name in share_of_rank(part, rank, 4)] for rank in range(4)]
    assert all(shares)
    assert sorted(itertools.chain.from_iterable(shares)) == sorted(name for name in names if name in part)


def test_the_first_process_scores_its_share_and_then_tells_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with a share is told when all are looked at; the others score their share and tell nothing."""
    done: list[object] = []

    class State:
        def __init__(self, **options: object) -> None:
            assert options["timeout"].days > 1  # type: ignore[attr-defined]

        def wait_for_everyone(self) -> None:
            done.append("wait")

    def score(workers: Workers, show: bool) -> Scores:
        done.append((str(workers.shard), show))
        if not show:
            raise SpearError("part 1/2 holds none of the 4 clips")
        return Scores({}, {}, [], [])

    monkeypatch.setattr("accelerate.PartialState", State)
    assert isinstance(scored_by_ranks(score, Workers(), {"WORLD_SIZE": "2", "RANK": "0"}), Scores)
    assert done == [("1/2", False), "wait", ("1/1", True)]
    done.clear()
    assert scored_by_ranks(score, Workers(), {"WORLD_SIZE": "2", "RANK": "1"}) is None
    assert done == [("2/2", False), "wait"]
    done.clear()
    assert isinstance(scored_by_ranks(score, Workers(), {}), Scores)
    assert done == [("1/1", True)]


def test_what_a_part_of_a_batch_counts_for() -> None:
    """Of five samples two processes have 0, 2, 4 and 1, 3: three and two fifths, times two."""
    parts = [Part(5, rank, 2) for rank in range(2)]
    assert [part.of(list(range(5))) for part in parts] == [[0, 2, 4], [1, 3]]
    assert [part.weight() for part in parts] == pytest.approx([1.2, 0.8])
    assert [part.weight(stop=2) for part in parts] == [1, 1]  # one of the first two each
    assert [part.weight(start=2) for part in parts] == pytest.approx([4 / 3, 2 / 3])  # 2, 4 and 3
    assert Part(5).weight() == 1


@pytest.mark.parametrize("ranks", [2, 3])
def test_weighted_losses_of_parts_are_the_loss_of_the_batch(ranks: int) -> None:
    torch.manual_seed(0)
    pred, truth, mask = torch.rand(5, 3, 8, 8), torch.rand(5, 3, 8, 8), torch.rand(5, 1, 8, 8).round()
    perceptual = PerceptualLoss([torch.nn.Conv2d(3, 4, 3)], mean=(0.5,) * 3, std=(0.5,) * 3)
    parts = [Part(5, rank, ranks) for rank in range(ranks)]
    for loss, given in ((masked_mse, (pred, truth, mask)), (perceptual, (pred, truth))):
        shares = [loss(*(part.of(value) for value in given)) * part.weight() for part in parts]
        assert sum(shares) / ranks == pytest.approx(float(loss(*given)))
