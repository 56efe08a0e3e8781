"""A dictionary from a forward hook of your own on any torch model.

The model is the small Llama that comes with itda, loaded by transformers alone; put yours in its place. What itda needs
is the activations [texts, tokens, d_model], the strings of the tokens, and which of them count.
"""

from pathlib import Path
from pydoc_data.topics import topics

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import itda

folder = Path(itda.__file__).parent / "assets" / "tiny"
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
layer = model.model.layers[3]


def read(texts: list[str]) -> itda.ActivationBatch:
    """Run the model on some texts, and label what the layer returns."""
    inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=64)
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _args, output: seen.append(output))
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    tokens = [[tokenizer.decode([token]) for token in row] for row in inputs.input_ids]
    mask = inputs.attention_mask * (inputs.input_ids != tokenizer.bos_token_id)  # no padding, no BOS
    return itda.ActivationBatch.of(seen[0], tokens=tokens, mask=mask)


# A dictionary grows batch by batch: an activation that the atoms so far explain badly becomes an atom.
texts = [topics[name] for name in sorted(topics)][:48]
trainer = itda.Trainer(d_model=model.config.hidden_size, k=8, threshold=0.3)
for first in range(0, len(texts), 16):
    trainer.offer(read(texts[first : first + 16]))
dictionary = trainer.finish()
print(dictionary)

# Which tokens of the texts is each token of a new one made of?
batch = read(["The function returns a list of strings"])
code = dictionary.encode(batch.activations)
for row, label in enumerate(batch.labels):
    parts = zip(code.indices[row].tolist(), code.coefficients[row].tolist(), strict=True)
    made_of = [f"{weight:+.0f} {dictionary.labels[atom].token!r}" for atom, weight in parts if abs(weight) > 1]
    print(f"{label.token!r:12}", "  ".join(made_of))
