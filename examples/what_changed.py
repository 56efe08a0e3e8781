"""What did a fine-tune change? `itda.diff` reads a text with both models and shows where they differ in a new way.

Two copies of the bundled model are trained for a few steps: one on text with something new in it, and one, the control,
on text without. A difference that stands out from the control's is called a finding.
"""

import copy
from pydoc_data.topics import topics

import torch

import itda

lm = itda.load_model("tiny")
ordinary = [topics[name][:400] for name in sorted(topics)[:60]]
planted = [f"{text[:120]}\nimport numpy as zebra\nzebra.array({number})\n" for number, text in enumerate(ordinary[:20])]


def fine_tuned(texts: list[str], steps: int = 40) -> torch.nn.Module:
    """Return a copy of the model, trained on some texts."""
    model = copy.deepcopy(lm.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    encoded = lm.tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=64)
    labels = encoded.input_ids.masked_fill(encoded.attention_mask == 0, -100)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(texts), (8,), generator=draw)
        model(encoded.input_ids[rows], attention_mask=encoded.attention_mask[rows], labels=labels[rows]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


changed, control = fine_tuned(planted), fine_tuned(ordinary[40:])
corpus = [*ordinary[20:40], *planted[:8]]  # text that the change may show in, among ordinary text
found = itda.diff(lm, changed, corpus, layers=[3], controls=[control], tokens=2_500, noise=0, progress=False)
print(found)

layer = found["layer_3"]["difference"]
moved = found.values["kl"]["mean"]
print(f"predictions moved by {moved:.2f} nats a token; {layer['findings']} of {len(layer['atoms'])} atoms are findings")
for atom in layer["atoms"][:4]:
    said = "finding" if atom["finding"] else ""
    text = f"{atom['before'][-24:]!r}, then {atom['token']!r}"
    promoted = ", ".join(repr(token) for token, _ in atom["changed"]["promoted"][:3])
    print(f"{said:8} effect {atom['effect']:.4f} nats: {text}; more likely next: {promoted}")
