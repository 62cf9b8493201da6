"""VAE: Kingma, Welling, "Auto-encoding variational Bayes", ICLR 2014, arXiv:1312.6114;
beta: Higgins et al., "beta-VAE: learning basic visual concepts with a constrained variational framework", ICLR 2017.

    loss:  E_q(z|x) [-log p(x|z)] + beta KL(q(z|x) || N(0, I)),  q = N(mu(x), diag sigma(x)^2), z = mu + sigma e

With beta = 1 it is the negative evidence lower bound. p(x|z) is by default a discretized logistic around what the
decoder gives, so it bounds the bits per dimension of 8-bit images; so does "gaussian", through uniform
dequantization. "bernoulli" bounds those of the images made black or white at random (binarized_elbo_bits_per_dim):
a cross-entropy of gray intensities is the log-likelihood of no gray image and compares with nothing else.
"""

from dataclasses import dataclass

from pipeline.families.vae import Elbo


@dataclass(frozen=True, kw_only=True)
class VAE(Elbo):
    """A variational autoencoder; its params are those of the family."""
