"""A small corpus with what pages must survive: markup, scripts, every direction of writing, signs that do not show."""

from pathlib import Path

SCRIPT = "<script>window.pwned=1</script>"
IMAGE = '"><img src=x onerror="window.pwned=1">'
ENDED = "</script><script>window.pwned=1</script>"
ADDRESS = "[a link](javascript:window.pwned=1)"
ENTITIES = "&lt;b&gt;bold&lt;/b&gt; &amp;amp;"
HOSTILE_NAME = '"><img src=x onerror=window.pwned=1>.txt'

ENGLISH = [
    "The harbour was quiet before the storm. Boats lay at their ropes, and the men who owned them stood on the quay and "  # noqa: E501
    "looked at the sky. Nobody spoke of the wind, though everybody had heard it in the night.",
    "Dictionaries are made of words, and words are made of use. If nobody uses a word for a hundred years, it stays in "
    "the dictionary; but when it is needed again, it has to be learnt as if it were new.",
    "In the morning the engineers came back with a list of questions. How many atoms does the layer need? How much of "
    "the activation do they explain? And which of them are used only once?",
    "She wrote the letter twice: once in English, for the lawyers, and once in her own language, for her mother, who "
    "could read neither and would have it read to her.",
    "A recipe: take two eggs, a cup of flour, a little salt and as much milk as the flour will hold. Stir it, leave it "
    "for half an hour, and bake it in butter.",
]

PYTHON = [
    'def read(path, encoding="utf-8"):\n    """The text of a file."""\n    with open(path, encoding=encoding) as file:\n'  # noqa: E501
    '        return file.read()\n\n\nif __name__ == "__main__":\n    print(read(sys.argv[1]))\n',
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n"
    "        self.items.append(item)\n\n    def pop(self):\n        if not self.items:\n"
    '            raise IndexError("pop from an empty stack")\n        return self.items.pop()\n',
    "import os\nimport sys\nfrom collections import Counter\n\n\ndef words(folder):\n    found = Counter()\n"
    "    for name in sorted(os.listdir(folder)):\n        for line in open(os.path.join(folder, name)):\n"
    "            found.update(line.split())\n    return found\n",
    'try:\n    value = int(text)\nexcept ValueError as error:\n    raise TypeError(f"expected a number, got {text!r}")'
    " from error\nelse:\n    assert value >= 0, value\n",
]

DOCUMENTS = {
    HOSTILE_NAME: f"A document whose name is hostile says: {IMAGE} and goes on with ordinary words.",
    "01 script.txt": f"Here a script {SCRIPT} stands in a text, and again {SCRIPT} stands there.",
    "02 image.txt": f"An attribute that ends early: {IMAGE} and the sentence that follows it.",
    "03 end.txt": f"What would end a script element: {ENDED} and then more text.",
    "04 address.txt": f"Follow {ADDRESS} or <a href='javascript:window.pwned=1'>this one</a> if you dare.",
    "05 entities.txt": f"Escaped already: {ENTITIES} and so it has to stay.",
    "06 arabic.txt": "كان البحر هادئا في الصباح، ثم جاءت الريح من الشمال. لم يتكلم أحد عن العاصفة في الليل.",
    "07 hebrew.txt": "הים היה שקט בבוקר, ואחר כך באה הרוח מן הצפון. איש לא דיבר על הסערה בלילה.",
    "08 chinese.txt": "海港在暴风雨前很安静。船停在绳子旁边，人们站在码头上看着天空。词典是由词语组成的。",
    "09 japanese.txt": "嵐の前の港は静かだった。誰も風のことを話さなかった。辞書は言葉でできている。",
    "10 emoji.txt": "Smile 🙂 and wave 👋🏽 at the family 👨‍👩‍👧 under the flag 🇫🇷 of the ship ⛵ tonight 🙂🙂.",
    "11 tabs.txt": "name\tvalue\n\tone\t1\n\t\ttwo\t2\n\n\n\n\nafter four empty lines\r\nand a carriage return\n   three spaces\n",  # noqa: E501
    "12 hidden.txt": "zero\u200bwidth, joined\u200dup, a byte order \ufeffmark, a no-break\u00a0space, soft\u00adhyphen.",  # noqa: E501
    "13 bidi.txt": "user = '\u202eresu\u202c'; the file is called txt.\u202egpj.exe\u202c today, \u2066isolated\u2069 tomorrow.",  # noqa: E501
    **{f"2{i} english.txt": "\n\n".join([*ENGLISH[i:], *ENGLISH[:i]]) for i in range(len(ENGLISH))},
    **{f"3{i} code.py": "\n\n".join([*PYTHON[i:], *PYTHON[:i]]) for i in range(len(PYTHON))},
}
"""By file name. The hostile one sorts first, so it is read before its tokens are explained by others."""


def write_to(folder: Path) -> None:
    for name, text in DOCUMENTS.items():
        (folder / name).write_bytes(text.encode())
