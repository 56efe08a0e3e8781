"""How a model changes while it is trained: fingerprints of its checkpoints, compared layer by layer.

A fingerprint says which tokens of a text are new to each layer. It takes one pass of the model, and no dictionary.
"""

from pydoc_data.topics import topics

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import itda

documents = [topics[name][:800] for name in sorted(topics)[:24]]
tiny = itda.load_model("tiny")
tokenizer = tiny.tokenizer

# A small model that knows nothing yet, and is trained for some steps on the documents.
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4
)
model = AutoModelForCausalLM.from_config(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
encoded = tokenizer(documents, return_tensors="pt", padding=True, truncation=True, max_length=64)
labels = encoded.input_ids.masked_fill(encoded.attention_mask == 0, -100)


def fingerprint() -> itda.Fingerprint:
    """Take the fingerprint of the model as it is now."""
    return itda.fingerprint(itda.load_model(model, tokenizer), documents, tokens=500, window=64, progress=False)


taken = {0: fingerprint()}
for step in range(1, 25):
    rows = torch.randint(len(documents), (8,))
    loss = model(encoded.input_ids[rows], attention_mask=encoded.attention_mask[rows], labels=labels[rows]).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step in (3, 8, 24):
        taken[step] = fingerprint()
        print(f"step {step}: loss {loss.item():.2f}")

print("\nSimilarity of each layer to itself after the last step (1: the same tokens are new, by as much)")
names = [str(site) for site in taken[0].sites]
print("step " + "".join(f"{name:>10}" for name in names))
for step, early in taken.items():
    compared = itda.compare(early, taken[24])
    print(f"{step:4} " + "".join(f"{compared[name, name]:10.2f}" for name in names))
