"""Features in a plane that keeps neighbours, t-SNE: van der Maaten, Hinton, "Visualizing data using t-SNE", JMLR 9,
2008, fitted to both kinds at once."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.evaluate.feature_set import FeatureSet
from pipeline.render.comparison import Comparison
from pipeline.render.scatter import draw_clouds, some

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 500  # points of a kind
FEWEST = 10
DIMENSIONS = 50  # to which PCA reduces first, as in the paper
PERPLEXITY = 30.0  # neighbours of a point, about; fewer of few points


def embed(real: Tensor, samples: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Place features (n, d) and (m, d) float64 in one plane: (n, 2) and (m, 2)."""
    from sklearn.manifold import TSNE

    both = torch.cat((real, samples))
    both = both - both.mean(0)
    vectors = torch.linalg.svd(both, full_matrices=False)[2][:DIMENSIONS]
    perplexity = min(PERPLEXITY, (len(both) - 1) / 3)
    found = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform((both @ vectors.T).numpy())
    places = torch.from_numpy(found).double()
    return places[: len(real)], places[len(real) :]


def _draw(samples: FeatureSet, real: FeatureSet) -> "Figure | None":
    if min(samples.distinct, real.distinct) < FEWEST:
        return None
    count = min(MOST, samples.distinct, real.distinct)
    there, here = embed(some(real, count), some(samples, count), samples.seed)
    return draw_clouds(there, here, f"{count} images of each kind")


COMPARISON = Comparison(
    title="Real and generated features (t-SNE)",
    caption=(
        "Features of as many real images as samples, placed so that neighbours stay neighbours; distances between "
        "heaps and their sizes mean nothing. Where the two kinds mix, the model has learnt that part of the data; a "
        "heap of one kind is a part that it leaves out, or makes up."
    ),
    draw=_draw,
)
