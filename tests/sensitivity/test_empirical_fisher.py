import pytest
import torch
from torch import nn
from torch.nn import functional

from nbquant.sensitivity import sensitivity


def squared_gradients(model, batches, loss):
    parameters, total, samples = dict(model.named_parameters()), {}, 0
    for x, y in batches:
        for n in range(len(y)):
            gradients = torch.autograd.grad(loss(model(x[n : n + 1]), y[n : n + 1]), list(parameters.values()))
            for name, g in zip(parameters, gradients, strict=True):
                total[name] = total.get(name, 0) + g.square()
            samples += 1
    return {name: g / samples for name, g in total.items()}


def margin(output, target):
    return (output.logsumexp(1) - output.gather(1, target[:, None])[:, 0]).square().mean()


@pytest.mark.parametrize("loss", [functional.cross_entropy, margin])
def test_is_the_mean_of_squared_gradients(convnet, images, oracle, loss):
    convnet.eval()
    found = sensitivity(convnet, images, "empirical_fisher", loss=loss, progress=False)
    oracle.close(found, squared_gradients(convnet, images, loss))


def test_of_a_recurrent_network(oracle):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.fc = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(self.rnn(x)[0].mean(1))

    net = Net().double()
    batches = [(torch.randn(3, 5, 3).double(), torch.randint(3, (3,)))]
    found = sensitivity(net, batches, "empirical_fisher", progress=False)
    oracle.close(found, squared_gradients(net, batches, functional.cross_entropy))
