"""
The other half of round-trip.mjs: models that were trained there, in the package that they are of.

    python round-trip.py transformers TEXT FOLDER ...    and fla, whose kernels Triton's interpreter runs on the CPU

Writes FOLDER/expected.safetensors, which `fastweights compare` reads; with transformers it trains 20 steps with the Hugging Face trainer, too, and saves to
FOLDER-more, with its figures. Prints a line of JSON for each folder: the loss before and after. Exits with 3 where a package is missing.
"""

import importlib.util
import json
import os
import sys

package, text_file, *folders = sys.argv[1:]
if package == 'fla':
    os.environ['TRITON_INTERPRET'] = '1'
elif importlib.util.find_spec('fla') is not None:
    print('where fla is installed, transformers takes its kernels, which need a GPU', file=sys.stderr)
    sys.exit(3)
os.environ['HF_HUB_OFFLINE'] = '1'
try:
    import torch
    import transformers
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    if package == 'fla':
        import triton.runtime.autotuner

        # Nothing is to be timed, and there is no driver that could.
        triton.runtime.autotuner.Autotuner.do_bench = property(lambda self: lambda call, quantiles: [0.0, 0.0, 0.0])
        import fla  # noqa: F401
    else:
        import accelerate  # noqa: F401
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(3)

# The models are small: more threads would mostly wait for each other.
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
text = open(text_file, encoding='utf-8').read()
# What Triton's interpreter computes takes long.
prompt_length, most_tokens = (12, 0) if package == 'fla' else (32, 12)
# Nearer to each other than that, rounding may choose between two tokens.
clear = 1e-3


def figures(model, tokenizer, folder):
    """input_ids, logits, and greedy tokens as far as the choice is clear."""
    model.eval()
    ids = tokenizer(text, return_tensors='pt').input_ids[:, :prompt_length]
    found = []
    with torch.no_grad():
        logits = model(ids).logits.float()
        row, last = ids, logits
        while len(found) < most_tokens:
            best = last[0, -1].topk(2)
            if best.values[0] - best.values[1] < clear:
                break
            found.append(best.indices[0].item())
            row = torch.cat([row, best.indices[:1][None]], 1)
            last = model(row, use_cache=False).logits.float()
    expected = {'input_ids': ids.int().contiguous(), 'logits': logits.contiguous()}
    if found:
        expected['generated'] = torch.tensor(found, dtype=torch.int32)
    save_file(expected, os.path.join(folder, 'expected.safetensors'))
    return len(found)


def more(model, tokenizer, folder):
    """20 steps of the trainer on four rows of a text that is new to the model, the same one backwards; its loss on them before and after."""
    ids = tokenizer(text[::-1], return_tensors='pt').input_ids[0]
    batch = ids[: 4 * 32].view(4, 32)
    data = [{'input_ids': row, 'labels': row} for row in batch]

    def loss():
        model.eval()
        with torch.no_grad():
            return model(batch, labels=batch).loss.item()

    before = loss()
    settings = dict(max_steps=20, per_device_train_batch_size=4, learning_rate=1e-3, seed=1)
    settings |= dict(report_to=[], save_strategy='no', logging_strategy='no', use_cpu=True, disable_tqdm=True)
    Trainer(model=model, args=TrainingArguments(output_dir=folder, **settings), train_dataset=data).train()
    after = loss()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return before, after


for folder in folders:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    result = {'folder': folder, 'class': type(model).__name__, 'tokens': figures(model, tokenizer, folder)}
    if package == 'transformers':
        further = folder + '-more'
        os.makedirs(further, exist_ok=True)
        result['before'], result['after'] = more(model, tokenizer, further)
        figures(AutoModelForCausalLM.from_pretrained(further, dtype=torch.float32), tokenizer, further)
    print(json.dumps(result), flush=True)
