"""Parameters in files, and warm starts from them."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from compiling import jit
from safetensors.numpy import save_file

from contrastive_jax.models import heads, load, resnet
from contrastive_jax.types import Refusal


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.shape == y.shape and x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


def test_a_model_and_its_statistics_survive_the_file(tmp_path):
  encoder = resnet.make(width=8, stem='cifar')
  params, stats = jit(encoder.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  load.save_safetensors(tmp_path / 'new' / 'model.safetensors', params, stats=stats)
  assert_same({**params, 'stats': stats}, load.load_safetensors(tmp_path / 'new' / 'model.safetensors'))


def test_scalars_transposed_arrays_and_other_dtypes_survive_the_file(tmp_path):
  params = {
    'scalar': jnp.float32(3.5),
    'transposed': np.arange(12.0, dtype=np.float32).reshape(3, 4).T,
    'strided': np.arange(12.0, dtype=np.float32)[::2],
    'empty': np.zeros((0, 3), np.float32),
    'half': jnp.arange(5, dtype=jnp.bfloat16),
    'count': np.int32(7),
    'flag': np.array([True, False]),
  }
  load.save_safetensors(tmp_path / 'a', params)
  loaded = load.load_safetensors(tmp_path / 'a')
  assert_same(params, loaded)
  assert loaded['half'].dtype == ml_dtypes.bfloat16


def test_names_in_the_file_are_joined_by_slashes(tmp_path):
  load.save_safetensors(tmp_path / 'a', {'stem': {'kernel': np.ones(2, np.float32)}})
  assert b'"stem/kernel"' in (tmp_path / 'a').read_bytes()


def test_equal_parameters_are_equal_files(tmp_path):
  for name in 'ab':
    load.save_safetensors(tmp_path / name, {'x': jnp.ones(3), 'y': {'z': jnp.zeros(2)}})
  assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
  path = tmp_path / 'model'
  load.save_safetensors(path, {'x': np.zeros(3, np.float32)})

  def interrupted(tensors, target, metadata):
    target.write_bytes(b'half of it')
    raise OSError('no space left on device')

  monkeypatch.setattr(load, 'save_file', interrupted)
  with pytest.raises(OSError, match='no space'):
    load.save_safetensors(path, {'x': np.ones(3, np.float32)})
  assert [entry.name for entry in tmp_path.iterdir()] == ['model']
  assert not load.load_safetensors(path)['x'].any()


def test_a_file_from_elsewhere_is_read_without_checksum(tmp_path):
  save_file({'layer/weight': np.ones(3, np.float32)}, tmp_path / 'a')
  np.testing.assert_array_equal(load.load_safetensors(tmp_path / 'a')['layer']['weight'], 1)


def test_a_missing_file_is_refused_by_name(tmp_path):
  with pytest.raises(Refusal, match=r'no parameters at .*absent: there is no such file'):
    load.load_safetensors(tmp_path / 'absent')


@pytest.mark.parametrize('damage', ['truncated', 'emptied', 'flipped header', 'flipped value', 'other file', 'folder'])
def test_a_damaged_file_is_refused(tmp_path, damage):
  path = tmp_path / 'model'
  load.save_safetensors(path, {'x': np.arange(100, dtype=np.float32)})
  data = path.read_bytes()
  if damage == 'folder':
    path.unlink()
    path.mkdir()
  else:
    path.write_bytes(
      {
        'truncated': data[:-10],
        'emptied': b'',
        'flipped header': bytes([data[0] ^ 64]) + data[1:],
        'flipped value': data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
        'other file': b'PK' + bytes(1000),
      }[damage]
    )
  with pytest.raises(Refusal, match='model is damaged'):
    load.load_safetensors(path)


def test_names_that_would_be_ambiguous_and_empty_files_are_refused(tmp_path):
  with pytest.raises(Refusal, match="'/' separates"):
    load.save_safetensors(tmp_path / 'a', {'a/b': np.ones(1)})
  with pytest.raises(Refusal, match='there are no parameters'):
    load.save_safetensors(tmp_path / 'a', {'head': {}})
  with pytest.raises(Refusal, match="parameters named 'stats'"):
    load.save_safetensors(tmp_path / 'a', {'stats': np.ones(1)}, stats={'mean': np.ones(1)})
  assert not any(tmp_path.iterdir())


def model(seed, features=4):
  params, _ = jit(heads.projector(hidden=6, features=features).init)(jax.random.key(seed), jnp.zeros((1, 5)))
  return params


def test_merge_takes_every_array_in_the_dtype_of_the_model():
  params, loaded = model(0), model(1)
  merged = load.merge(params, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), loaded))
  assert_same(merged, loaded)


def test_merge_leaves_out_what_the_model_lacks_and_keeps_empty_heads():
  loaded = {'encoder': model(1), 'classifier': {'kernel': np.ones((4, 10))}}
  merged = load.merge({'encoder': model(0), 'head': {}}, loaded)
  assert_same(merged, {'encoder': loaded['encoder'], 'head': {}})


def test_merge_names_the_first_parameters_that_are_missing():
  loaded = model(1)
  del loaded['dense_1']
  with pytest.raises(Refusal, match=r'not among those loaded: dense_1/(kernel|bias), dense_1/(kernel|bias); loaded'):
    load.merge(model(0), loaded)
  with pytest.raises(Refusal, match=r'(dense_\d/\w+, ){2}dense_\d/\w+ and 1 more; loaded were other$'):
    load.merge(model(0), {'other': np.ones(2)})


def test_merge_names_both_shapes_where_they_differ():
  with pytest.raises(Refusal, match=r'dense_1/kernel is \[6, 4\], loaded \[6, 9\]'):
    load.merge(model(0), model(1, features=9))


def test_merge_keeps_the_parameters_that_skip_matches_whole():
  params, loaded = model(0), model(1, features=9)
  merged = load.merge(params, loaded, skip='dense_1/.*')
  assert_same(merged, {'dense_0': loaded['dense_0'], 'dense_1': params['dense_1']})
  with pytest.raises(Refusal, match="skip 'dense' matches no parameter; the first are dense_0"):
    load.merge(params, loaded, skip='dense')


def test_a_skip_that_is_not_a_regular_expression_is_refused():
  with pytest.raises(Refusal, match=r"skip '\(' is not a regular expression"):
    load.merge(model(0), model(1), skip='(')
