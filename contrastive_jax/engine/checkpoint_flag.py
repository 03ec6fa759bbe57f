"""--checkpoint, of every command that uses a trained run; training itself has no such choice."""

from absl import flags

CHECKPOINT = flags.DEFINE_string(
  'checkpoint', 'newest', "Which checkpoint of the run: 'newest', 'best' (by the score kept with it) or a step."
)
