"""What studies of pictures of emoji with captions share: a size that takes a CPU minutes, runs, and tables of them."""

import argparse
import pathlib
from collections.abc import Mapping, Sequence

from experiments import runs

SEEDS = (0, 1, 2)
# Overrides of `configs/multimodal/common.py`: towers that two cores train in two or three minutes.
SMALL = {
  'encoder__widths': (16, 32, 64),
  'text_encoder__width': 64,
  'text_encoder__depth': 1,
  'text_head__features': 64,
  'head__features': 64,
  'evals__zero_shot': False,
  'evals__gap': False,
}
Found = Mapping[str, Sequence[Mapping[str, float]]]  # scores of each seed, by what the row of a table says


def epochs(about: str, default: float) -> float:
  """Of training, as the command says."""
  parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--epochs', type=float, default=default, help=f'of each run; the study has {default:g}')
  return parser.parse_args().epochs


def train(here: pathlib.Path, name: str, config: str, epochs: float, **overrides) -> list[dict[str, float]]:
  """The last scores of a config's run with every seed, kept in runs/STUDY."""
  given = SMALL | runs.LAST_STEP | {'train__epochs': epochs} | overrides
  folder = runs.ROOT / 'runs' / here.name
  return [runs.train(config, folder / f'{name}-{epochs:g}-{seed}', seed=seed, **given) for seed in SEEDS]


def table(found: Found, heads: Sequence[str], scores: Mapping[str, str]) -> str:
  """Mean and standard deviation over seeds, as Markdown; a row begins with what it says, parted by ' | '."""
  lines = [f'| {" | ".join([*heads, *scores.values()])} |', '|' + '---|' * len(heads) + '--:|' * len(scores)]
  for row, each in found.items():
    lines.append(f'| {" | ".join([row, *(runs.spread([seed[key] for seed in each]) for key in scores)])} |')
  return '\n'.join(lines) + '\n'
