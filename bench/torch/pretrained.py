"""The process of one row of the benchmark of pretrained models that is transformers': asked by lines of JSON, as peers.py is."""
import json
import os
import resource
import sys
import time

import torch
import transformers


def processor():
    times = os.times()
    return times.user + times.system


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Worker:
    def open(self, folder, threads, dtype):
        torch.set_num_threads(threads)
        before = peak()
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        about = f'transformers {transformers.__version__}, PyTorch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})'
        return {'about': about, 'before': before, 'opened': peak()}

    def step(self, tokens, cache):
        begin = time.perf_counter()
        result = self.model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = int(result.logits[0, -1].argmax())
        return time.perf_counter() - begin, token, result.past_key_values

    @torch.inference_mode()
    def continued(self, prompt, length):
        work = [processor()]
        seconds, token, cache = self.step(prompt, None)
        work.append(processor())
        tokens, decode = [token], []
        for _ in range(length):
            taken, token, cache = self.step([token], cache)
            decode.append(taken)
            tokens.append(token)
        work.append(processor())
        return {
            'tokens': tokens,
            'prompt': seconds,
            'decode': decode,
            'work': {'prompt': work[1] - work[0], 'decode': (work[2] - work[1]) / length},
        }

    def memory(self):
        return {'process': peak()}


calls = {'open': 'open', 'continue': 'continued', 'memory': 'memory'}
worker = Worker()
for line in sys.stdin:
    call = json.loads(line)
    try:
        answer = {'result': getattr(worker, calls[call['name']])(**call['argument'])}
    except Exception as error:  # The parent says what went wrong.
        answer = {'error': f'{type(error).__name__}: {error}'}
    print(json.dumps(answer), flush=True)
