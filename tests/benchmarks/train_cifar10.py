"""Training ResNet-32 as He et al. 2015 (arXiv:1512.03385, section 4.2) do on CIFAR-10."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nbquant.models.batches import Batches, device_of
from nbquant.progress import Progress, track

EPOCHS = 182  # 64,000 steps of 128 images
BATCH_SIZE = 128
MARGIN = 4


def augmented(images: Float[Tensor, "n 3 32 32"]) -> Float[Tensor, "n 3 32 32"]:
    """Each image shifted by up to four pixels either way, and mirrored half of the time."""
    n, _, height, width = images.shape
    padded = functional.pad(images, (MARGIN,) * 4)
    top, left = torch.randint(0, 2 * MARGIN + 1, (2, n, 1))
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    mirrored = torch.rand(n, 1) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    of = torch.arange(n).reshape(n, 1, 1)
    return padded[of, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train_resnet(
    model: nn.Module, data: Batches, epochs: int = EPOCHS, seed: int = 0, progress: Progress = True
) -> nn.Module:
    """SGD with momentum 0.9 and weight decay 1e-4; the learning rate 0.1 falls tenfold at a half and three quarters.

    The last epoch is kept; the images are those of ``data``, shifted and mirrored.
    """
    steps = epochs * -(-data.samples // BATCH_SIZE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 2, steps * 3 // 4])
    device = device_of(model)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            chunks = torch.randperm(data.samples).split(BATCH_SIZE)
            for chunk in track(chunks, f"Training, epoch {epoch + 1} of {epochs}", progress):
                images, targets = augmented(data.inputs[chunk]).to(device), data.targets[chunk].to(device)
                loss = functional.cross_entropy(model(images), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval()
