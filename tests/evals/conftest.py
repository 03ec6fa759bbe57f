"""Rows over the eight simulated devices."""

import jax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec


@pytest.fixture
def rows_sharding():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  return NamedSharding(mesh, PartitionSpec('data'))
