"""Mean and covariance of features in the files of pytorch-fid and clean-fid: .npz with mu (d,) and sigma (d, d).

Such a file says nothing of the extractor, the resize or the images: a distance to it means something only where those
are the same, of which the caller has to be sure. Of Inception's 2,048 features, `inception` here gives those of
pytorch-fid and of clean-fid's mode "legacy_tensorflow", but for their resize: compare protocol.json.
"""

import zipfile
from pathlib import Path

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.evaluate.feature_set import Statistics, read_set
from pipeline.files import atomic_file


def export_statistics(reference: Path, extractor: str, path: Path) -> None:
    """Write the statistics of a feature set into a file that pytorch-fid and clean-fid read.

    Args:
        reference: a folder such as out/reference.
        extractor: whose features.
        path: the file, ending in .npz.

    Raises:
        UserError: the features cannot be read, are of one image, or the file would have another ending.
    """
    if path.suffix != ".npz":
        raise UserError(f"{path}: the file's name must end in .npz, as pytorch-fid looks at that.")
    kept = read_set(reference, extractor, "reference")
    if len(kept) < 2:
        raise UserError(f"{reference}: one image has no covariance. Add images to the data.")
    found = kept.statistics
    with atomic_file(path) as part, part.open("wb") as file:
        np.savez_compressed(file, mu=found.mean.numpy(), sigma=found.covariance.numpy())


def import_statistics(path: Path) -> Statistics:
    """Read statistics that pytorch-fid, clean-fid or ``export_statistics`` wrote.

    Args:
        path: of the .npz file.

    Returns:
        Mean and covariance in float64.

    Raises:
        UserError: it cannot be read, lacks mu or sigma, or they are no moments: of other shapes, not finite, not
            symmetric.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            mean, covariance = (torch.from_numpy(content[key].astype(np.float64)) for key in ("mu", "sigma"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: no statistics of pytorch-fid or clean-fid, arrays mu and sigma ({error!r})."
        ) from error
    found = Statistics(mean=mean, covariance=covariance)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not found.finite:
        raise UserError(f"{path}: mu {tuple(mean.shape)} and sigma {tuple(covariance.shape)} are no finite moments.")
    if not torch.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-6 * float(covariance.diagonal().abs().max())):
        raise UserError(f"{path}: sigma is not symmetric, so it is no covariance.")
    return found
