"""Number of views x temperature x loss at matched compute, three seeds: 240 runs.

Every step embeds as many images, `IMAGES`, whatever the number of views: more views of fewer instances. Steps are the
same for all, so is compute.
"""

from launch.space import product, seeds, values, zip_

LOSSES = ('simclr', 'poly_view', 'mv_info_nce', 'mv_dhel')
VIEWS = (2, 3, 4, 6)
TEMPERATURES = (0.07, 0.1, 0.2, 0.5, 1.0)
IMAGES = 384  # views x instances of a batch
STEPS = 300


def get_sweep():
  """The grid."""
  return product(
    values('config', *(f'configs/ssl/{loss}.py' for loss in LOSSES)),
    zip_(
      values('config.data.num_views', *VIEWS), values('config.data.batch_size', *(IMAGES // views for views in VIEWS))
    ),
    values('config.method.temperature', *TEMPERATURES),
    seeds(3),
  )


def get_common():
  """What all runs share: only the last step is evaluated, and no run writes a report of its own."""
  return {
    'config.train.steps': STEPS,
    'config.train.eval_every': 1_000_000,
    'config.train.checkpoint_every': 100,
    'config.train.log_every': 20,
    'config.train.report': False,
  }
