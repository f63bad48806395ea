"""What PyTorch does, for the benchmarks `torch` and `webgpu`: a process that a parent asks, one line of JSON a call. On the CPU or on a card (CUDA).

The model of a training step is the one that bench/train-child.mjs trains, with its weights. Two forms of the delta rule: `loop`, a token at a time as labml's
layer goes, and `chunk`, 64 tokens at a time (Yang et al. 2024, 2406.06484, section 3). Compiled: torch.compile of the model, or of a step of the loop over
tokens or chunks, since a compiler would unroll the loop. The kernels of flash-linear-attention (fla), which take bfloat16, stand beside them where there are some.
"""

import gc
import json
import os
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


def piece(S, q, k, v, beta):
    """A chunk from the state S, with that after it: u = (I + A)^-1 beta (v - k S) with A = tril(beta k k^T, -1), y = q S + tril(q k^T) u, S grows by k^T u."""
    A = (beta * k @ k.transpose(-1, -2)).tril(-1)
    u = torch.linalg.solve_triangular(A, beta * (v - k @ S), upper=False, unitriangular=True)
    return S + k.transpose(-1, -2) @ u, q @ S + (q @ k.transpose(-1, -2)).tril() @ u


def chunks(q, k, v, beta, step=piece):
    """As `loop`."""
    S = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3])
    rows = []
    for begin in range(0, q.shape[2], CHUNK):
        part = slice(begin, begin + CHUNK)
        S, y = step(S, q[:, :, part], k[:, :, part], v[:, :, part], beta[:, :, part])
        rows.append(y)
    return torch.cat(rows, 2)


def kernel(rule):
    """fla's kernel of a rule, of what `numbers` gives: q, k, v in bfloat16, [B,T,H,*]. ImportError where there is none."""
    if rule == 'delta':
        from fla.ops.delta_rule import chunk_delta_rule

        return lambda x: chunk_delta_rule(x['q'], x['k'], x['v'], x['beta'], scale=1.0)[0]
    if rule == 'gated-delta':
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        return lambda x: chunk_gated_delta_rule(x['q'], x['k'], x['v'], g=x['gate'], beta=x['beta'], scale=1.0)[0]
    if rule == 'gla':
        from fla.ops.gla import chunk_gla

        return lambda x: chunk_gla(x['q'], x['k'], x['v'], g=x['gates'], scale=1.0)[0]
    from fla.ops.linear_attn import chunk_linear_attn

    return lambda x: chunk_linear_attn(x['q'], x['k'], x['v'], scale=1.0, normalize=False)[0]


def numbers(B, T, H, K, V, device):
    """Inputs of a recurrence, [B,T,H,*]: queries and keys of length 1, strengths in (0, 1), logarithms of decays in (-0.1, 0), one of a head or of a channel."""
    torch.manual_seed(1)
    unit = lambda: F.normalize(torch.randn(B, T, H, K, device=device), dim=-1)
    return {
        'q': unit(),
        'k': unit(),
        'v': torch.randn(B, T, H, V, device=device),
        'beta': torch.rand(B, T, H, device=device),
        'gate': -0.1 * torch.rand(B, T, H, device=device),
        'gates': -0.1 * torch.rand(B, T, H, K, device=device),
    }


def close(y, expected, bound, what):
    ratio = ((y.float() - expected).square().mean() / expected.square().mean()).sqrt().item()
    if not ratio <= bound:
        raise ValueError(f'{what} is not what the loop gives: ratio of RMS {ratio}, bound {bound}')


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


def training(setting, weights, form, compiled, device):
    """One step, which gives its loss, from the weights in the files of this name."""
    with open(weights + '.json') as file:
        shapes = json.load(file)
    with open(weights + '.bin', 'rb') as file:
        flat = torch.frombuffer(bytearray(file.read()), dtype=torch.float32).to(device)
    w, at = {}, 0
    for name, shape in shapes:
        size = torch.Size(shape).numel()
        w[name] = flat[at : at + size].view(shape).clone().requires_grad_()
        at += size
    recurrence = chunks
    if form == 'loop':
        one = torch.compile(token) if compiled else token
        recurrence = lambda q, k, v, beta: loop(q, k, v, beta, one)
    model = Model(w, setting['heads'], setting['layers'], recurrence)
    of = torch.compile(model.loss) if compiled and form == 'chunk' else model.loss
    # A norm that the layer has and never uses gets no gradient.
    optimizer = torch.optim.Adam(w.values(), lr=setting['lr'])
    shape = (setting['batch'], setting['length'])
    text = lambda shift: ((torch.arange(shape[0] * shape[1], device=device) + shift) * 7919 % setting['symbols']).view(shape)
    tokens, targets = text(0), text(1)

    def step():
        optimizer.zero_grad()
        loss = of(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(w.values(), 1.0)
        optimizer.step()
        return loss

    return step


def recurrence(rule, sizes, form, compiled, backward, device):
    """One pass of a rule, forward or with backward too, whose result has been compared with the loop's where that is known: of the delta rule."""
    if form == 'kernel':
        run = kernel(rule)
        cast = {name: x if name in ('gate', 'gates') else x.bfloat16() for name, x in numbers(**sizes, device=device).items()}
    else:
        over, one = (loop, token) if form == 'loop' else (chunks, piece)
        if compiled:
            one = torch.compile(one)
        run = lambda x: over(x['q'], x['k'], x['v'], x['beta'], one)
        # As the model has them: [B,H,T,*].
        cast = {name: x.transpose(1, 2).contiguous() for name, x in numbers(**sizes, device=device).items()}
        cast['beta'] = cast['beta'].unsqueeze(-1)
    time_axis = 1 if form == 'kernel' else 2
    if rule == 'delta':
        few = {name: x.narrow(time_axis, 0, min(x.shape[time_axis], 128)) for name, x in cast.items()}
        heads = {name: (x.transpose(1, 2) if form == 'kernel' else x).float() for name, x in few.items()}
        if form == 'kernel':
            heads['beta'] = heads['beta'].unsqueeze(-1)
        with torch.no_grad():
            y = run(few)
            expected = loop(heads['q'], heads['k'], heads['v'], heads['beta'], token)
            close(y.transpose(1, 2) if form == 'kernel' else y, expected, 3e-2 if form == 'kernel' else 1e-3, f'the delta rule, {form}')
    names = {'delta': ('beta',), 'gated-delta': ('beta', 'gate'), 'gla': ('gates',), 'sum': ()}[rule]
    leaves = [cast[name].requires_grad_(backward) for name in ('q', 'k', 'v', *names)]
    dy = torch.ones_like(cast['v'])

    def work():
        y = run(cast)
        if backward:
            torch.autograd.grad(y, leaves, dy)

    if backward:
        return work
    return torch.no_grad()(work)


class Worker:
    def __init__(self):
        self.works = {}

    def about(self, device='cpu'):
        """Why there is no such device, or no fla, is null where there is."""
        cuda = device == 'cuda'
        if cuda and not torch.cuda.is_available():
            return {'version': torch.__version__, 'lacks': 'no CUDA device that it can use'}
        try:
            import fla

            lacks, version = None, getattr(fla, '__version__', 'of no version')
        except Exception as error:
            lacks, version = f'{type(error).__name__}: {error}'.split('\n')[0], None
        if lacks is None and not cuda:
            lacks = 'its kernels run on a GPU alone'
        return {
            'version': torch.__version__,
            'lacks': None,
            'name': torch.cuda.get_device_name() if cuda else torch.backends.cpu.get_cpu_capability(),
            'cuda': torch.version.cuda if cuda else None,
            'fla': {'version': version, 'lacks': lacks},
        }

    def prepare(self, label, what, tf32, device, **given):
        """What `sample` of this label is going to time: products, a recurrence or a step, of which it gives two losses."""
        self.device = device
        self.tensor_cores(tf32)
        if what == 'product':
            a, b = (torch.rand(given['n'], given['n'], device=device) for _ in range(2))
            self.works[label] = (lambda: a @ b, tf32)
            return {}
        if what == 'recurrence':
            self.works[label] = (recurrence(**given, device=device), tf32)
            return {}
        step = training(**given, device=device)
        self.works[label] = (step, tf32)
        return {'losses': [step().item() for _ in range(2)]}

    def tensor_cores(self, tf32):
        torch.backends.cuda.matmul.allow_tf32 = tf32

    def sample(self, label, count):
        """Seconds of one of so many, the queue waited for at the end."""
        work, tf32 = self.works[label]
        self.tensor_cores(tf32)
        self.wait()
        begin = time.perf_counter()
        for _ in range(count):
            work()
        self.wait()
        return {'seconds': (time.perf_counter() - begin) / count}

    def wait(self):
        if self.device == 'cuda':
            torch.cuda.synchronize()

    def drop(self):
        self.works.clear()
        gc.collect()
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return {}

    def open(self, setting, weights, form, compiled, threads):
        torch.set_num_threads(threads)
        self.one = training(setting, weights, form, compiled, 'cpu')
        return {'version': torch.__version__, 'simd': torch.backends.cpu.get_cpu_capability(), 'threads': torch.get_num_threads()}

    def step(self):
        begin = time.perf_counter()
        value = self.one().item()
        return {'seconds': time.perf_counter() - begin, 'loss': value}

    def memory(self):
        return {'process': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


# What compilers and kernels print goes where errors do.
answers = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)
worker = Worker()
for line in sys.stdin:
    call = json.loads(line)
    try:
        answer = {'result': getattr(worker, call['name'])(**call['argument'])}
    except Exception as error:  # The parent says what went wrong.
        answer = {'error': f'{type(error).__name__}: {error}'}
    print(json.dumps(answer), file=answers, flush=True)
