"""From config files and overrides to functions: what is accepted, and what each refusal says."""

import json
import pathlib
import sys

import ml_collections
import pytest

from contrastive_jax.engine import resolve, setup
from contrastive_jax.types import Refusal

ROOT = pathlib.Path(__file__).parents[2]
SIMCLR = f'{ROOT}/configs/ssl/simclr.py:tiny'


def load(**overrides):
  return resolve.load(SIMCLR, {key.replace('__', '.'): value for key, value in overrides.items()})


def build(**overrides):
  return setup.build(load(**overrides))


@pytest.mark.parametrize(
  ('key', 'text', 'value'),
  [
    ('seed', '7', 7),
    ('method__temperature', '0.5', 0.5),
    ('method__temperature', '1', 1.0),
    ('method__temperature', '1e-2', 0.01),
    ('schedule__warmup', '0.5', 0.5),
    ('train__steps', 'none', None),
    ('train__steps', '30', 30),
    ('train__report', 'True', True),
    ('train__report', 'false', False),
    ('train__init_from', 'runs/1', 'runs/1'),
    ('train__init_from', '7', '7'),
    ('encoder__norm', 'none', 'none'),
    ('encoder__widths', '(64, 32)', (64, 32)),
    ('encoder__widths', '[64]', (64,)),
    ('head__hidden', 'None', None),
    ('data__batch_size', '16', 16),
    ('data__views__zoom', '[0.9, 1.1]', (0.9, 1.1)),
    ('evals__knn__k', '5', 5),
    ('optimiser__rates', "[['head/.*', 0.1]]", (('head/.*', 0.1),)),
    ('train__sharding', "[['.*kernel', [None, 'data']]]", (('.*kernel', (None, 'data')),)),
    ('train__sharding', "(('params/.*', 'largest'),)", (('params/.*', 'largest'),)),
    ('method__fold', 'ring', 'ring'),
  ],
)
def test_an_override_is_read_as_the_type_that_the_signature_names(key, text, value):
  found = load(**{key: text})
  for part in key.split('__'):
    found = found[part]
  assert found == value
  assert type(found) is type(value)


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    # Keys: the function that has no such option, the nearest that it has, and all that it has.
    (
      {'method__temprature': '1'},
      "unknown key 'config.method.temprature' (contrastive_jax.methods.pair.make has no such option); did you mean "
      "'temperature'? (known: fold, loss, name, precision, temperature)",
    ),
    ({'encoder__width': '1'}, "(contrastive_jax.models.mlp.make has no such option); did you mean 'widths'?"),
    (
      {'schedule__warm_up': '1'},
      "(contrastive_jax.engine.optimiser.cosine has no such option); did you mean 'warmup'?",
    ),
    ({'data__views__rotat': '1'}, "(contrastive_jax.data.views.digits has no such option); did you mean 'rotate'?"),
    ({'data__views__mean': '(0.0,)'}, "unknown key 'config.data.views.mean'"),
    ({'data__source__split': 'test'}, "unknown key 'config.data.source.split'"),
    ({'data__batchsize': '1'}, "unknown key 'config.data.batchsize'; did you mean 'batch_size'?"),
    ({'train__step': '1'}, "unknown key 'config.train.step'; did you mean 'steps'?"),
    ({'train__name': 'x'}, "unknown key 'config.train.name'"),
    ({'sead': '1'}, "unknown key 'config.sead'; did you mean 'seed'?"),
    ({'evals__knn__kk': '1'}, "(contrastive_jax.evals.knn.make has no such option); did you mean 'k'?"),
    ({'evals__knn__name': 'x'}, "unknown key 'config.evals.knn.name'"),
    ({'optimizer__beta1': '1'}, "unknown key 'config.optimizer'; did you mean 'optimiser'?"),
    ({'evals__knnn__k': '1'}, "unknown key 'config.evals.knnn'; did you mean 'knn'?"),
    # Sections and values.
    ({'method': 'pair'}, "'config.method' is a section: set one of its keys, config.method.KEY=VALUE"),
    ({'data__source': 'digits'}, "'config.data.source' is a section"),
    ({'evals__knn': '5'}, "config.evals.knn must be True or False, or one of its keys be set, but it is '5'"),
    ({'evals__knnn': 'True'}, "unknown name 'knnn' in config.evals; did you mean 'knn'?"),
    ({'seed__x': '1'}, "'config.seed' is no section"),
    ({'method__temperature__x': '1'}, "'config.method.temperature' is no section"),
    # Names.
    (
      {'encoder__name': 'resnt'},
      "unknown name 'resnt' in config.encoder; did you mean 'resnet'? (known: convnet, dilated, mlp,",
    ),
    ({'data__source__name': 'digts'}, "unknown name 'digts' in config.data.source; did you mean 'digits'?"),
    ({'data__views__name': 'simclr2'}, "unknown name 'simclr2' in config.data.views; did you mean 'simclr'?"),
    ({'method__name': 'pear'}, "unknown name 'pear' in config.method; did you mean 'pair'?"),
    ({'method__loss': 'ntxent'}, "unknown loss 'ntxent' in config.method.loss; did you mean 'nt_xent'?"),
    ({'optimiser__name': 'adam'}, "unknown name 'adam' in config.optimiser; did you mean 'adamw'?"),
    ({'schedule__name': 'cosin'}, "unknown name 'cosin' in config.schedule; did you mean 'cosine'?"),
    # Types.
    ({'train__steps': 'abc'}, "config.train.steps must be a value of type None or int, but it is 'abc'"),
    ({'train__steps': '1.5'}, 'config.train.steps must be a value of type None or int, but it is 1.5'),
    ({'train__steps': 'True'}, 'config.train.steps must be a value of type None or int, but it is True'),
    ({'method__temperature': 'warm'}, "config.method.temperature must be a value of type float, but it is 'warm'"),
    ({'seed': 'None'}, 'config.seed must be a value of type int, but it is None'),
    ({'encoder__widths': '64'}, 'config.encoder.widths must be a value of type tuple[int, ...], but it is 64'),
    ({'train__report': '1'}, 'config.train.report must be a value of type bool, but it is 1'),
    # What tuples hold, and how many.
    ({'encoder__widths': '(64, 1.5)'}, 'widths must be a value of type tuple[int, ...], but it is (64, 1.5)'),
    ({'data__views__zoom': '(0.5,)'}, 'zoom must be a value of type tuple[float, float], but it is (0.5,)'),
    ({'data__views__erase_area': '(0.1, 0.2, 0.3)'}, 'must be a value of type tuple[float, float], but it is (0.1,'),
    (
      {'data__views__name': 'simclr', 'data__views__crop_scale': '(0.5,)'},
      'config.data.views.crop_scale must be a value of type tuple[float, float], but it is (0.5,)',
    ),
    ({'data__views__zoom': "('a', 1)"}, 'must be a value of type tuple[float, float]'),
    (
      {'optimiser__rates': '(0.1,)'},
      'config.optimiser.rates must be a value of type tuple[tuple[str, float], ...], but it is (0.1,)',
    ),
    ({'optimiser__rates': "['head/.*', 0]"}, 'must be a value of type tuple[tuple[str, float], ...]'),
    (
      {'train__sharding': '(1, 2)'},
      'sharding must be a value of type tuple[tuple[str, str | tuple[str | None, ...]], ...], but it is (1, 2)',
    ),
    ({'train__sharding': "[['params/.*', 3]]"}, 'must be a value of type tuple[tuple[str, str | tuple['),
    ({'train__sharding': "[['params/.*', ['data', 3]]]"}, 'must be a value of type tuple[tuple[str, str | tuple['),
    # What is left out.
    ({'data__source__name': 'arrays'}, "config.data.source needs 'path': --config.data.source.path=VALUE"),
    ({'data__source__name': 'tfds'}, "config.data.source needs 'dataset'"),
  ],
)
def test_a_config_that_means_nothing_is_refused_with_what_would(overrides, message):
  with pytest.raises(Refusal) as refusal:
    load(**overrides)
  assert message in str(refusal.value)
  assert '\n' not in str(refusal.value)


def test_evaluators_are_added_and_left_out_by_flag():
  digits = f'{ROOT}/configs/ssl/simclr.py'
  found = resolve.load(digits, {'evals.health': 'True', 'evals.linear': 'False'})
  assert 'health' in found.evals and 'linear' not in found.evals and 'knn' in found.evals
  assert resolve.load(digits, {'evals.health': 'True', 'evals.health.bins': '7'}).evals.health.bins == 7


def test_one_strength_of_the_linear_probe_is_written_as_a_tuple():
  digits = f'{ROOT}/configs/ssl/simclr.py'
  assert resolve.load(digits, {'evals.linear.strengths': '(1,)'}).evals.linear.strengths == (1.0,)
  with pytest.raises(Refusal, match=r'linear\.strengths must be a value of type tuple\[float, ...\], but it is 0\.01'):
    resolve.load(digits, {'evals.linear.strengths': '0.01'})
  with pytest.raises(Refusal, match=r"linear\.strengths must be .*, but it is \(1, 'weak'\)"):
    resolve.load(digits, {'evals.linear.strengths': "(1, 'weak')"})


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'data__batch_size': '1438'}, 'batch_size 1438 is larger than the data set, which has 1437 examples'),
    ({'data__batch_size': '0'}, 'batch_size is 0; at least 1 is needed'),
    ({'data__batch_size': '12', 'train__devices': '8'}, 'batch_size=12 does not divide among 8 devices; 16 would'),
    ({'train__devices': '9'}, '9 devices were asked for, but there are 8'),
    ({'data__num_views': '0'}, 'num_views must be at least 1, but it is 0'),
    ({'data__num_views': '1'}, 'V >= 2 views are needed'),
    ({'data__num_views': '1', 'method__loss': 'symmetric_info_nce'}, "loss 'symmetric_info_nce' takes 2 views"),
    ({'method__temperature': '0'}, 'temperature must be > 0, but it is 0.0'),
    ({'method__temperature': '-0.1'}, 'temperature must be > 0, but it is -0.1'),
    ({'train__steps': '0'}, 'a run needs at least one step, but config.train asks for 0'),
    ({'train__log_every': '0'}, 'config.train.log_every must be at least 1, but it is 0'),
    ({'train__best': 'knn/acuracy'}, "and of which more is better; did you mean 'knn/accuracy'? (known: knn/accuracy)"),
    ({'train__best': 'linear/accuracy'}, "best='linear/accuracy' must be a score that config.evals measures"),
    ({'train__best': 'linear/acuracy', 'train__keep_best': '0'}, "did you mean 'linear/accuracy'?"),
    ({'train__steps': 'none', 'train__epochs': '-1'}, 'config.train.epochs must be a positive number, but it is -1.0'),
    (
      {'train__steps': 'none', 'train__epochs': '1e999'},
      'config.train.epochs must be a positive number, but it is inf',
    ),
    ({'evals__knn__k': '0'}, 'k and temperature must be positive, but they are 0'),
    ({'encoder__widths': '(0,)'}, 'widths is (0,): positive integers are needed'),
    ({'encoder__dtype': 'float64'}, "dtype 'float64' needs jax_enable_x64"),
    ({'encoder__name': 'vit', 'encoder__patch': '3'}, 'patch'),
    ({'schedule__scaling': 'liner'}, "unknown scaling 'liner' in config.schedule; did you mean 'linear'?"),
    ({'schedule__warmup': '1.5'}, 'warmup is a share of the steps, from 0 to 1, but it is 1.5'),
    ({'schedule__learning_rate': '-1'}, 'learning_rate must be a number of at least 0, but it is -1.0'),
    ({'schedule__learning_rate': '1e999'}, 'learning_rate must be a number of at least 0, but it is inf'),
    ({'schedule__final': '-1'}, 'config.schedule.final is a share of the peak, from 0 to 1, but it is -1.0'),
    ({'optimiser__weight_decay': '-1'}, 'config.optimiser.weight_decay must be at least 0, but it is -1.0'),
    ({'optimiser__clip_norm': '0'}, 'clip_norm must be positive, or None for no clipping, but it is 0.0'),
    ({'optimiser__beta1': '1.5'}, 'config.optimiser.beta1 must be at least 0 and below 1, but it is 1.5'),
    ({'optimiser__epsilon': '0'}, 'config.optimiser.epsilon must be positive, but it is 0.0'),
    ({'optimiser__name': 'sgd', 'optimiser__momentum': '-1'}, 'momentum must be at least 0 and below 1, but it is -1'),
    ({'optimiser__name': 'lars', 'optimiser__trust': '0'}, 'config.optimiser.trust must be positive, but it is 0.0'),
    ({'optimiser__rates': "[['encodr/.*', 0]]"}, "'encodr/.*' of config.optimiser.rates matches no parameter"),
    ({'optimiser__rates': "[['head/.*', -1]]"}, "rates has the factor -1.0 for 'head/.*', but at least 0 is needed"),
    ({'optimiser__no_decay': '('}, "config.optimiser.no_decay '(' is not a regular expression"),
    ({'train__sharding': "[['params/.*', ['modl']]]"}, "no mesh axis 'modl' in config.train.sharding"),
    ({'train__sharding': "[['params/.*', 'largst']]"}, "by 'largst', but 'largest', or an axis or None for each"),
    ({'train__sharding': "[['.*kernel', ['data', 'data']]]"}, 'over one mesh axis'),
    ({'train__sharding': "[['kernel', ['data']]]"}, "'kernel' of config.train.sharding matches nothing of the train"),
    ({'train__sharding': "[['(', ['data']]]"}, "config.train.sharding '(' is not a regular expression"),
    ({'method__fold': 'rng'}, "unknown fold 'rng' in config.method.fold; did you mean 'ring'?"),
    ({'method__fold': 'none'}, "unknown fold 'None' in config.method.fold (known: auto, chunked, dense, ring)"),
    ({'method__fold': '3'}, "unknown fold '3' in config.method.fold (known: auto, chunked, dense, ring)"),
    ({'method__fold': '[1, 2]'}, "unknown fold '(1, 2)' in config.method.fold"),
    ({'method__fold': 'local'}, "unknown fold 'local' in config.method.fold (known: auto, chunked, dense, ring)"),
    ({'method__fold': "{'name': 'local'}"}, "unknown fold 'local'"),
    ({'method__fold': "{'name': 'auto', 'rows': 3}"}, "unknown key 'rows' in config.method.fold: auto has no such"),
    ({'method__fold': "{'name': 'ring', 'mesh': 3}"}, "unknown key 'mesh' in config.method.fold"),
    ({'method__fold': "{'name': 'ring', 'rows': 0}"}, 'at least one row and one column, but they are rows=0'),
    ({'method__fold': "{'name': 'ring', 'rows': 'a'}"}, 'config.method.fold.rows must be a value of type int, but it'),
    ({'method__fold': "{'name': 'ring', 'axis': 3}"}, 'config.method.fold.axis must be a value of type None or str or'),
    ({'method__fold': "{'name': 'ring', 'axis': 'x'}"}, "no mesh axis 'x' (known: data)"),
    ({'seed': '-1'}, 'config.seed must be from 0 to 4294967295, but it is -1'),
    ({'seed': '4294967296'}, 'config.seed must be from 0 to 4294967295, but it is 4294967296'),
    ({'seed': '1' + '0' * 30}, 'config.seed must be from 0 to 4294967295'),
    ({'method__fold': "{'name': 'rng'}"}, "unknown fold 'rng' in config.method.fold; did you mean 'ring'?"),
    ({'method__fold': "{'name': 'ring', 'row': 3}"}, "ring has no such option; did you mean 'rows'?"),
    ({'method__precision': 'bf16'}, 'bfloat16'),
    ({'data__views__zoom': '(0.0, 1.0)'}, 'zoom is (0.0, 1.0); 0 < least <= greatest is needed'),
    ({'data__source__name': 'fashion_mnist', 'data__source__data_dir': 'nowhere'}, 'dataset-fashion-mnist'),
    ({'data__source__name': 'arrays', 'data__source__path': 'none.npz'}, 'no such file: none.npz'),
  ],
)
def test_a_run_that_cannot_start_is_refused_before_it_starts(overrides, message):
  with pytest.raises(Refusal) as refusal:
    build(**overrides).check()
  assert message in str(refusal.value)


def test_choosing_another_loss_keeps_the_options_that_it_has_too():
  config = load(method__loss='sigmoid', method__bias='-5')
  assert config.method.to_dict() == dict(
    name='pair', loss='sigmoid', fold='auto', precision=None, temperature=0.2, bias=-5.0
  )
  # The defaults of this loss, not of the one before: it has no temperature of its own to keep.
  assert 'temperature' not in load(method__loss='mmcr').method
  with pytest.raises(Refusal, match=r"unknown key 'config\.method\.bias'.*\(known: fold, loss, name"):
    load(method__bias='-5')


def test_choosing_another_encoder_leaves_no_option_of_the_one_before():
  config = load(encoder__name='convnet', encoder__stride='1')
  assert config.encoder.stride == 1
  assert config.encoder.widths == (32, 64, 128)
  with pytest.raises(Refusal, match=r"unknown key 'config\.encoder\.dropout'"):
    load(encoder__name='convnet', encoder__dropout='0.1')
  # Naming what is chosen already changes nothing.
  assert load(encoder__name='mlp') == load()


def test_sources_are_configured_by_keys_without_a_default():
  config = load(data__source__name='tfds', data__source__dataset='mnist', data__source__image_size='28')
  assert (config.data.source.dataset, config.data.source.image_size) == ('mnist', 28)


def test_a_default_is_written_once_in_a_signature():
  config = ml_collections.ConfigDict(
    {
      **{section: {'name': name} for section, name in dict(encoder='mlp', head='projector', method='pair').items()},
      **{section: {'name': name} for section, name in dict(schedule='cosine', optimiser='sgd').items()},
      'data': {'source': {'name': 'digits'}, 'views': {'name': 'digits'}},
    }
  )
  found = resolve.complete(config)
  assert (found.seed, found.data.num_views, found.data.batch_size, found.train.epochs) == (0, 2, 256, 100.0)
  assert (found.method.loss, found.method.temperature) == ('nt_xent', 0.1)
  assert found.evals.to_dict() == {}
  assert 'seed' not in config


@pytest.mark.parametrize('missing', ['data', 'encoder', 'method', 'optimiser'])
def test_a_config_without_a_section_is_refused(missing):
  config = resolve.read(SIMCLR)
  del config[missing]
  with pytest.raises(Refusal, match=f"the config has no section '{missing}'"):
    resolve.complete(config)


def test_a_section_without_a_name_is_refused_with_the_names_that_there_are():
  config = resolve.read(SIMCLR)
  del config.head['name']
  with pytest.raises(Refusal, match=r"config\.head needs a 'name' \(known: identity, predictor, projector\)"):
    resolve.complete(config)


@pytest.mark.parametrize(
  ('text', 'path', 'message'),
  [
    ('', 'none.py', "no config file '.*none.py'"),
    ('', 'none', "there is no '.*none' .*: the directory of a run, with its config.json, or a config file"),
    ('', 'none' * 100, "there is no '.*none'"),
    ('x = 1', 'some.py', 'has no function get_config'),
    ('', 'some.txt', 'is not a Python file'),
    ('def get_config():\n  return {}', 'some.py:tiny', "has no variants, but ':tiny' was asked for"),
    ('def get_config():\n  return {}', 'some.py', 'must return an ml_collections.ConfigDict, not a dict'),
    ('def get_config():\n  pass', 'some.py', 'must return an ml_collections.ConfigDict, not a NoneType'),
    ('def get_config(variant):\n  pass', 'some.py', "some.py' fails: TypeError: .* required positional argument"),
    ('\nimport nosuch', 'some.py', "some.py' fails in line 2: ModuleNotFoundError: No module named 'nosuch'"),
    ('\nx = (', 'some.py', "some.py' fails in line 2: SyntaxError: '[(]' was never closed"),
    ('def get_config():\n  return {}[3]', 'some.py', "some.py' fails in line 2: KeyError: 3"),
    ('import json\njson.loads("\\n{")', 'some.py', "some.py' fails in line 2: JSONDecodeError: Expecting"),
    ('x = "\0"', 'some.py', "some.py' fails: (SyntaxError|ValueError): source code string cannot contain null bytes"),
  ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, text, path, message):
  if 'none' not in path:
    (tmp_path / path.partition(':')[0]).write_text(text)
  with pytest.raises(Refusal, match=message) as refusal:
    resolve.load(str(tmp_path / path))
  assert '\n' not in str(refusal.value)


def test_a_directory_without_a_run_is_refused_with_what_is_missing(tmp_path):
  with pytest.raises(Refusal, match=f"'{tmp_path}' holds no run: config.json is missing"):
    resolve.load(str(tmp_path))


def test_a_config_is_found_from_any_directory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert load().encoder.name == 'mlp'


def test_a_config_imports_what_lies_in_configs_above_it_from_any_directory(tmp_path, monkeypatch):
  (tmp_path / 'a:b' / 'configs' / 'ssl').mkdir(parents=True)
  (tmp_path / 'elsewhere').mkdir()
  (tmp_path / 'a:b' / 'configs' / 'shared_settings.py').write_text('SEED = 7\n\n\ndef fail():\n  return 1 / 0\n')
  mine = tmp_path / 'a:b' / 'configs' / 'ssl' / 'mine.py'
  mine.write_text(
    'import ml_collections\nfrom configs import shared_settings\n\n\ndef get_config(variant=""):\n'
    '  if variant:\n    shared_settings.fail()\n  return ml_collections.ConfigDict(dict(seed=shared_settings.SEED))\n'
  )
  monkeypatch.chdir(tmp_path / 'elsewhere')
  before = list(sys.path)
  assert resolve.read(str(mine)).seed == 7
  with pytest.raises(Refusal, match=r'fails in line 5 of .*shared_settings\.py: ZeroDivisionError'):
    resolve.read(f'{mine}:bad')
  assert sys.path == before


def test_a_config_whose_configs_are_nowhere_is_told_where_they_are_looked_for(tmp_path, monkeypatch):
  (tmp_path / 'mine.py').write_text('from configs import common\n')
  monkeypatch.chdir(tmp_path)
  monkeypatch.delitem(sys.modules, 'configs', raising=False)
  monkeypatch.setattr(sys, 'path', [folder for folder in sys.path if not pathlib.Path(folder, 'configs').is_dir()])
  with pytest.raises(Refusal, match=r"fails in line 1: ModuleNotFoundError: .*; a directory 'configs' is looked for"):
    resolve.read('mine.py')


def test_a_workdir_stands_for_the_config_of_its_run(tmp_path):
  config = load(method__temperature='0.3')
  (tmp_path / 'config.json').write_text(json.dumps(config.to_dict()))
  assert resolve.load(str(tmp_path)) == config
  assert resolve.load(str(tmp_path), {'evals.knn.k': '3'}).evals.knn.k == 3


def test_every_metric_has_a_meaning_by_the_name_of_its_method_or_evaluator():
  meanings = resolve.glossary(load())
  assert {'knn/accuracy', 'positive_similarity'} <= set(meanings)


def test_what_chooses_the_best_checkpoint_has_a_meaning_and_grows_with_quality():
  others = ('close', 'clusters', 'episodes', 'gap', 'health', 'minimal_pairs', 'pooled_retrieval', 'preferences')
  others += ('retrieval', 'targets', 'zero_shot')
  config = resolve.load(f'{ROOT}/configs/ssl/simclr.py', {f'evals.{name}': 'True' for name in others})
  meanings = resolve.glossary(config)
  assert {'knn/accuracy', 'linear/accuracy'} <= set(resolve.best_scores()) <= set(meanings)
  assert resolve.best_scores(['knn']) == ['knn/accuracy']
  assert not {'geometry/alignment', 'linear/l2', 'geometry/uniformity'} & set(resolve.best_scores())


def test_the_best_checkpoint_is_chosen_only_by_what_is_measured_and_by_nothing_that_falls_with_quality():
  config = load()
  config.evals = {'geometry': {}}
  for best in ('geometry/alignment', 'knn/accuracy'):
    config.train.best = best
    with pytest.raises(Refusal, match=r'known: geometry/effective_rank, geometry/features_effective_rank'):
      setup.build(resolve.complete(config))
  config.train.keep_best = 0
  assert setup.build(resolve.complete(config)).options.best == 'knn/accuracy'
  config.train.keep_best, config.train.best = 1, 'geometry/effective_rank'
  assert setup.build(resolve.complete(config)).options.best == 'geometry/effective_rank'


def test_a_run_without_evaluators_needs_no_score():
  config = load()
  config.evals = {}
  assert setup.build(resolve.complete(config)).evaluators == {}
