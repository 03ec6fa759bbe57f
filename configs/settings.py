"""Settings of configs whose data are no images: a config lists its own, and `choose` takes one."""

from collections.abc import Mapping

import ml_collections

from contrastive_jax.types import Refusal, nearest


def choose(variant: str, settings: Mapping[str, dict]) -> ml_collections.ConfigDict:
  """The setting that `variant` names, '' the first.

  Raises:
    Refusal: an unknown setting.
  """
  setting = settings.get(variant or next(iter(settings)))
  if setting is None:
    raise Refusal(f"unknown variant '{variant}' of the config{nearest(variant, settings)}")
  return ml_collections.ConfigDict(dict(seed=0) | setting)
