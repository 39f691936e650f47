"""The base's tokenizer: a token per word of the world, and bytes for everything else."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


SPECIALS = ("<pad>", "<s>", "</s>")

# A conversation looks like a question page: the base has seen the form, without the habit of answering.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'user' %}{% if not loop.first %}{{ '\\n' }}{% endif %}Ask: {{ message.content }}\n"
    "{% elif message.role == 'assistant' %}"
    "Reply:{% generation %} {{ message.content }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('the mini base knows the roles user and assistant only') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Reply:{% endif %}"
)


def make_tokenizer(pages: Iterable[str]) -> PreTrainedTokenizerFast:
    """Collect the words of ``pages``.

    Any text round-trips: what is no word is spelled in bytes. A text starts with ``<s>``, as the pages the base has
    read do.
    """
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = {piece for page in pages for piece, _ in splitter.pre_tokenize_str(page)}
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokens = [*SPECIALS, *sorted(alphabet), *sorted(words - set(alphabet))]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.ByteLevel()
    pad, bos, eos = SPECIALS
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, vocabulary[bos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        chat_template=CHAT_TEMPLATE,
        model_max_length=256,
        padding_side="left",
    )
