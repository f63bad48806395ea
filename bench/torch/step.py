"""A training step of the fast weights transformer in PyTorch, for the benchmark `torch`: a process that a parent asks, one line of JSON a call.

The model is the one that bench/train-child.mjs trains, with its weights. Two forms of the delta rule: `loop`, a token at a time as labml's layer goes,
and `chunk`, 64 tokens at a time (Yang et al. 2024, 2406.06484, section 3). Compiled: torch.compile of the model, or of the loop's step, since a compiler
would unroll the loop.
"""

import json
import resource
import sys
import time

import torch
import torch.nn.functional as F

CHUNK = 64


def features(x):
    """DPFP with nu = 1 of [..., K], divided by its sum: [..., 2 K]."""
    r = F.relu(torch.cat((x, -x), -1))
    y = r * r.roll(1, -1)
    return y / (y.sum(-1, keepdim=True) + 1e-6)


def token(S, q, k, v, beta):
    """One token: S [B,H,K,V]; q, k [B,H,K]; v [B,H,V]; beta [B,H,1]."""
    found = torch.einsum('bhkv,bhk->bhv', S, k)
    S = S + torch.einsum('bhk,bhv->bhkv', k, beta * (v - found))
    return S, torch.einsum('bhkv,bhk->bhv', S, q)


def loop(q, k, v, beta, step):
    """q, k [B,H,T,K], v [B,H,T,V], beta [B,H,T,1]: [B,H,T,V]."""
    S = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3])
    rows = []
    for t in range(q.shape[2]):
        S, y = step(S, q[:, :, t], k[:, :, t], v[:, :, t], beta[:, :, t])
        rows.append(y)
    return torch.stack(rows, 2)


def chunks(q, k, v, beta):
    """As `loop`: within a chunk u = (I + A)^-1 beta (v - k S) with A = tril(beta k k^T, -1), y = q S + tril(q k^T) u, S grows by k^T u."""
    S = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3])
    rows = []
    for begin in range(0, q.shape[2], CHUNK):
        part = slice(begin, begin + CHUNK)
        qc, kc, vc, bc = q[:, :, part], k[:, :, part], v[:, :, part], beta[:, :, part]
        A = (bc * kc @ kc.transpose(-1, -2)).tril(-1)
        u = torch.linalg.solve_triangular(A, bc * (vc - kc @ S), upper=False, unitriangular=True)
        rows.append(qc @ S + (qc @ kc.transpose(-1, -2)).tril() @ u)
        S = S + kc.transpose(-1, -2) @ u
    return torch.cat(rows, 2)


class Model:
    """Weights by the names of our state dict."""

    def __init__(self, weights, heads, layers, recurrence):
        self.w, self.heads, self.layers, self.recurrence = weights, heads, layers, recurrence

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.w[f'{name}.weight'], self.w[f'{name}.bias'], 1e-5)

    def attention(self, x, name):
        B, T, D = x.shape
        split = lambda y: y.view(B, T, self.heads, -1).transpose(1, 2)
        q, k, v = (split(F.linear(x, self.w[f'{name}.{part}.linear.weight'])) for part in ('query', 'key', 'value'))
        beta = split(torch.sigmoid(F.linear(x, self.w[f'{name}.interpolation_weight.0.linear.weight'])))
        y = self.recurrence(features(q), features(k), v, beta)
        return F.linear(y.transpose(1, 2).reshape(B, T, D), self.w[f'{name}.output.weight'], self.w[f'{name}.output.bias'])

    def loss(self, tokens, targets):
        x = F.embedding(tokens, self.w['src_embed.weight'])
        for i in range(self.layers):
            name = f'transformer.layers.{i}'
            x = x + self.attention(x, f'{name}.attn')
            h = F.linear(self.norm(x, f'{name}.norm_ff'), self.w[f'{name}.feed_forward.layer1.weight'], self.w[f'{name}.feed_forward.layer1.bias'])
            x = x + F.linear(F.relu(h), self.w[f'{name}.feed_forward.layer2.weight'], self.w[f'{name}.feed_forward.layer2.bias'])
        logits = F.linear(self.norm(x, 'transformer.norm'), self.w['generator.weight'], self.w['generator.bias'])
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Worker:
    def open(self, setting, weights, form, compiled, threads):
        torch.set_num_threads(threads)
        with open(weights + '.json') as file:
            shapes = json.load(file)
        with open(weights + '.bin', 'rb') as file:
            flat = torch.frombuffer(bytearray(file.read()), dtype=torch.float32)
        self.w, at = {}, 0
        for name, shape in shapes:
            size = torch.Size(shape).numel()
            self.w[name] = flat[at : at + size].view(shape).clone().requires_grad_()
            at += size
        recurrence = chunks
        if form == 'loop':
            step = torch.compile(token) if compiled else token
            recurrence = lambda q, k, v, beta: loop(q, k, v, beta, step)
        model = Model(self.w, setting['heads'], setting['layers'], recurrence)
        self.loss = torch.compile(model.loss) if compiled and form == 'chunk' else model.loss
        # A norm that the layer has and never uses gets no gradient.
        self.optimizer = torch.optim.Adam(self.w.values(), lr=setting['lr'])
        shape = (setting['batch'], setting['length'])
        text = lambda shift: ((torch.arange(shape[0] * shape[1]) + shift) * 7919 % setting['symbols']).view(shape)
        self.tokens, self.targets = text(0), text(1)
        return {'version': torch.__version__, 'simd': torch.backends.cpu.get_cpu_capability(), 'threads': torch.get_num_threads()}

    def step(self):
        begin = time.perf_counter()
        self.optimizer.zero_grad()
        loss = self.loss(self.tokens, self.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.w.values(), 1.0)
        self.optimizer.step()
        value = loss.item()
        return {'seconds': time.perf_counter() - begin, 'loss': value}

    def memory(self):
        return {'process': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


worker = Worker()
for line in sys.stdin:
    call = json.loads(line)
    try:
        answer = {'result': getattr(worker, call['name'])(**call['argument'])}
    except Exception as error:  # The parent says what went wrong.
        answer = {'error': f'{type(error).__name__}: {error}'}
    print(json.dumps(answer), flush=True)
