"""--split, of every command that works on a part of a trained run's data."""

from absl import flags

SPLIT = flags.DEFINE_string(
  'split', 'test', "Split of the run's data set: 'train' or 'test'; a search takes 'all', both, too."
)
