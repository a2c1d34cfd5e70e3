"""What a process of torchrun does of work that is shared by clips, and what its samples count for in a batch."""

from __future__ import annotations

import pytest
import torch

from spear.losses import masked_mse
from spear.pretrained.perceptual import PerceptualLoss
from spear.shards import Shard, choose_shard, own_part
from spear.training_task import Part


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
