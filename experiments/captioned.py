"""What studies of pictures of emoji with captions share: a size that takes a CPU minutes, runs, and tables of them."""

import argparse
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from contrastive_jax.evals import retrieval
from contrastive_jax.evals.evaluator import Embed
from contrastive_jax.types import Embedded, Texts
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
NAMES = {'data__source__keywords': False}  # the caption of a picture is its name alone
EPOCHS = 20  # of the runs of `clip`, and of what is compared with them
Found = Mapping[str, Sequence[Mapping[str, float]]]  # scores of each seed, by what the row of a table says


def epochs(about: str, default: float) -> float:
  """Of training, as the command says."""
  parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--epochs', type=float, default=default, help=f'of each run; the study has {default:g}')
  return parser.parse_args().epochs


def train(here: pathlib.Path, name: str, config: str, epochs: float, **overrides) -> list[dict[str, float]]:
  """The last scores of a config's run with every seed, kept in runs/STUDY."""
  return [each.scores for each in trained(here.name, name, config, epochs, **overrides)]


def trained(folder: str, name: str, config: str, epochs: float, **overrides) -> list[runs.Trained]:
  """A config's run with every seed, kept in runs/FOLDER: trained once, however many studies ask for it."""
  given = SMALL | runs.LAST_STEP | {'train__epochs': epochs} | overrides
  paths = [runs.ROOT / 'runs' / folder / f'{name}-{epochs:g}-{seed}' for seed in SEEDS]
  return [runs.trained(config, path, seed=seed, **given) for seed, path in zip(SEEDS, paths, strict=True)]


def clip(epochs: float) -> list[runs.Trained]:
  """CLIP on pictures of emoji and their English names, which several studies start from."""
  return trained('emoji_clip', 'clip', 'multimodal/clip.py', epochs, **NAMES)


def one_per_concept(embed: Embed) -> Callable[[str], Embedded]:
  """`embed` of the first picture of each concept, so that a firefighter in six tones and three genders counts once."""

  def thinned(split: str) -> Embedded:
    whole = embed(split)
    assert whole.texts is not None and whole.concept is not None
    rows = np.flatnonzero(retrieval.first_of_concepts(whole.concept))
    texts = Texts(np.asarray(whole.texts.projection)[rows], whole.texts.mask[rows], whole.texts.slots)
    features, projection = (np.asarray(jax.device_get(x))[rows] for x in (whole.features, whole.projection))
    return Embedded(features, projection, whole.label[rows], whole.index[rows], texts, whole.concept[rows])

  return thinned


def table(found: Found, heads: Sequence[str], scores: Mapping[str, str]) -> str:
  """Mean and standard deviation over seeds, as Markdown; a row begins with what it says, parted by ' | '."""
  lines = [f'| {" | ".join([*heads, *scores.values()])} |', '|' + '---|' * len(heads) + '--:|' * len(scores)]
  for row, each in found.items():
    lines.append(f'| {" | ".join([row, *(runs.spread([seed[key] for seed in each]) for key in scores)])} |')
  return '\n'.join(lines) + '\n'
