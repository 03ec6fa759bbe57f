"""Zero-shot classification: explicit predictions, templates, ties and the Fréchet mean."""

import jax
import numpy as np
import pytest
from captioned import Fixed, split, unit

from contrastive_jax.evals import captions, loki, zero_shot
from contrastive_jax.types import Refusal

NAMES = ('cat', 'dog', 'eel', 'fox')
TEMPLATES = ('{}', 'a photo of a {}.')


def strings(seed=0, d=8):
  random = np.random.default_rng(seed)
  return {t.replace('{}', name): unit(random.standard_normal(d)) for name in NAMES for t in TEMPLATES}


def embed(n=70, known=1.0, seed=0):
  """Images around the names of their classes, a share of which is known."""
  embedded, table = split(n=n, seed=seed), strings()
  random = np.random.default_rng(seed)
  x = unit(np.stack([table[NAMES[each]] for each in embedded.label]) + 0.5 * random.standard_normal((n, 8)))
  label = np.where(random.random(n) < known, embedded.label, -1).astype(np.int32)
  return Fixed(NAMES, table, test=embedded._replace(projection=x, label=label))


def expected(given, templates):
  """Cosines with each class."""
  rows = np.stack([[given.texts([t.replace('{}', name)])[0] for t in templates] for name in NAMES]).astype(float)
  return given('test').projection.astype(float) @ unit(rows.mean(1)).T.astype(float)


@pytest.mark.parametrize('templates', [TEMPLATES[:1], TEMPLATES])
@pytest.mark.parametrize('known', [1.0, 0.6])
def test_accuracies_equal_those_of_explicit_cosines(templates, known):
  given = embed(known=known)
  label, right = given('test').label, expected(given, templates).argmax(1) == given('test').label
  found = zero_shot.make(templates=templates).run(given)
  assert found.keys() == {'zero_shot/accuracy', 'zero_shot/mean_per_class'}
  np.testing.assert_allclose(found['zero_shot/accuracy'], right[label >= 0].mean())
  np.testing.assert_allclose(found['zero_shot/mean_per_class'], np.mean([right[label == c].mean() for c in range(4)]))
  assert 0.4 < found['zero_shot/accuracy'] < 0.98


def test_several_templates_are_averaged_as_unit_vectors_and_scaled_again():
  given = embed()
  double = Fixed(NAMES, {k: 5 * v if k in NAMES else v for k, v in strings().items()}, test=given('test'))
  rows = [zero_shot.classifier(each, TEMPLATES) for each in (given, double)]
  np.testing.assert_allclose(*rows, atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(rows[0], axis=1), 1, rtol=1e-6)


def test_many_images_are_classified_in_pieces(monkeypatch):
  given = embed(n=130)
  want = zero_shot.make().run(given)
  monkeypatch.setattr(zero_shot, 'ROWS', 32)
  zero_shot._predict.clear_cache()
  assert zero_shot.make().run(given) == want


def test_classes_that_are_equally_similar_are_mistakes():
  given = embed()
  same = Fixed(NAMES, dict.fromkeys(strings(), strings()['cat']), test=given('test'))
  assert set(zero_shot.make().run(same).values()) == {0.0}


def test_fréchet_means_are_those_of_explicit_probabilities_and_cost_no_more_under_a_tree():
  given = embed(n=300)
  cosines, label = expected(given, TEMPLATES[:1]), given('test').label
  distances = loki.tree_distances((-1, 0, 1, 2))
  options = dict(frechet=True, temperature=0.3, distances=tuple(map(tuple, distances.tolist())))
  found = zero_shot.make(**options).run(given)
  p = np.exp(cosines / 0.3)
  mean = (p / p.sum(1, keepdims=True) @ distances**2).argmin(1)
  np.testing.assert_allclose(found['zero_shot/frechet_accuracy'], (mean == label).mean())
  np.testing.assert_allclose(
    found['zero_shot/squared_distance'], loki.mean_squared_distance(cosines.argmax(1), label, distances)
  )
  np.testing.assert_allclose(
    found['zero_shot/frechet_squared_distance'], loki.mean_squared_distance(mean, label, distances)
  )


def test_by_default_classes_are_as_far_apart_as_the_embeddings_of_their_names():
  given = embed()
  rows = np.stack([strings()[name] for name in NAMES])
  distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
  options = dict(frechet=True, temperature=0.3)
  explicit = zero_shot.make(**options, distances=tuple(map(tuple, distances.tolist()))).run(given)
  for name, value in zero_shot.make(**options).run(given).items():
    np.testing.assert_allclose(value, explicit[name], rtol=1e-5)
  assert set(explicit) == set(zero_shot.GLOSSARY)


def test_rows_over_devices_are_classified_as_on_one(rows_sharding):
  given = embed(n=64)
  want = zero_shot.make(frechet=True).run(given)
  placed = given('test')._replace(projection=jax.device_put(given('test').projection, rows_sharding))
  assert zero_shot.make(frechet=True).run(Fixed(NAMES, strings(), test=placed)) == pytest.approx(want)


def test_a_transfer_guard_changes_nothing():
  evaluator = zero_shot.make(frechet=True)
  with jax.transfer_guard('disallow'):
    guarded = evaluator.run(embed())
  assert guarded == evaluator.run(embed())


def test_what_cannot_be_classified_is_refused():
  given = embed()
  for options, message in (
    (dict(templates=()), 'templates must be sentences'),
    (dict(templates=('a photo',)), "with {} in the place of the name, but they are \\('a photo',\\)"),
    (dict(temperature=0.0), 'temperature must be positive'),
  ):
    with pytest.raises(Refusal, match=message):
      zero_shot.make(**options)
  with pytest.raises(Refusal, match='distances must be between the 4 classes'):
    zero_shot.make(frechet=True, distances=((0.0,),)).run(given)
  with pytest.raises(Refusal, match='needs names of classes'):
    zero_shot.make().run(Fixed((), strings(), test=given('test')))
  with pytest.raises(Refusal, match='needs labels'):
    zero_shot.make().run(Fixed(NAMES, strings(), test=given('test')._replace(label=np.full(70, -1))))
  with pytest.raises(Refusal, match='names of the classes have embeddings that are not finite'):
    zero_shot.make().run(Fixed(NAMES, {k: v * np.inf for k, v in strings().items()}, test=given('test')))


def test_a_tie_is_what_rounding_cannot_tell():
  assert 1e-7 < captions.TIE < 1e-5
