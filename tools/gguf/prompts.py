"""A thousand prompts in many scripts, the same every time."""

from __future__ import annotations

import random
import unicodedata

#: "A red fox under the full moon", or a sentence like it.
SENTENCES = [
    "a red fox under the full moon", "Ein roter Fuchs läuft über die verschneite Straße.", "Un renard roux près de l'église, à l'aube",
    "¿Dónde está el zorro rojo? ¡Allí, bajo la luna!", "Uma raposa vermelha na floresta à noite", "Una volpe rossa sotto la luna piena",
    "Een rode vos onder de volle maan", "En röd räv i skogen på vintern", "En rød ræv på øen", "Rauður refur undir fullu tungli",
    "Punainen kettu täysikuun alla yöllä", "Czerwony lis pod księżycem w pełni", "Červená liška pod úplňkem ve sněhu",
    "Vörös róka a telihold alatt", "O vulpe roșie sub luna plină", "Dolunay altında kırmızı bir tilki", "Con cáo đỏ dưới ánh trăng tròn",
    "Красная лиса под полной луной", "Червона лисиця під повним місяцем їжак ґанок", "Црвена лисица под пуним месецом", "Червена лисица под пълната луна",
    "Қызыл түлкі толған айдың астында", "Улаан үнэг дүүрэн сарны доор", "Μια κόκκινη αλεπού κάτω από το φεγγάρι", "Կարմիր աղվես լիալուսնի տակ",
    "წითელი მელა სავსე მთვარის ქვეშ", "שועל אדום מתחת לירח מלא", "ثعلب أحمر تحت القمر المكتمل", "روباه قرمز زیر نور ماه کامل", "پورے چاند کے نیچے ایک سرخ لومڑی",
    "पूर्णिमा के चाँद के नीचे एक लाल लोमड़ी", "পূর্ণিমার চাঁদের নিচে একটি লাল শিয়াল", "ਪੂਰੇ ਚੰਦ ਹੇਠ ਲਾਲ ਲੂੰਬੜੀ", "પૂનમના ચાંદ નીચે લાલ શિયાળ",
    "முழு நிலவின் கீழ் சிவப்பு நரி", "నిండు చందమామ కింద ఎర్ర నక్క", "ಹುಣ್ಣಿಮೆಯ ಚಂದ್ರನ ಕೆಳಗೆ ಕೆಂಪು ನರಿ", "പൂർണ്ണചന്ദ്രനു കീഴിൽ ഒരു ചുവന്ന കുറുക്കൻ",
    "සඳ යට රතු නරියා", "สุนัขจิ้งจอกสีแดงใต้แสงจันทร์เต็มดวง", "ໝາຈອກສີແດງໃຕ້ແສງຈັນ", "လပြည့်လအောက်တွင် မြေခွေးနီတစ်ကောင်", "កញ្ជ្រោងក្រហមក្រោមព្រះច័ន្ទ",
    "ཟླ་བའི་འོག་གི་ཝ་དམར་པོ", "ቀይ ቀበሮ በሙሉ ጨረቃ ስር", "满月下的红色狐狸，水墨画风格。", "滿月下的紅色狐狸，「水墨畫」", "満月の下の赤いキツネ、アニメ調、カタカナと漢字", "보름달 아래의 붉은 여우, 수채화",
]  # fmt: skip

FRAGMENTS = [
    "🦊🌕", "👩🏽‍🚀", "🏳️‍🌈", "👨‍👩‍👧‍👦", "1️⃣2️⃣", "🇯🇵🇫🇷", "☕︎ ♥️", "1024×768", "f/1.8, 85mm, ISO 400", "3.14159", "٣٤٥", "१२३", "½ ⅓ ²",
    "don't you'll it's I'M WE'RE", "“quotes” — «guillemets» …", "$19.99 €5 ¥100 ₹", "if (a != b) { return a[i++]; }", "<b>bold</b> &amp; #hash @at",
    "https://example.org/a?b=c&d=%20", "snake_case CamelCase kebab-case", "    indented", "tab\tseparated", "line\nline\r\n\r\nline", "trailing   ", "\u00a0\u3000wide",
    "e\u0301 n\u0303 o\u0308", "ﬁ ﬀ Å Å", "\u200bzero\u200d\ufeffwidth", "\u202eright-to-left", "ａｂｃ１２３", "𝒻𝑜𝓍 𝕗𝕠𝕩", "𠮷野家 𪚥", "!!!???...,,,;;;", "~`^|\\/",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "<|vision_start|>", "<|fim_prefix|>", "<|file_sep|>",
    "<think>\u0338", "<|im_end|", "[PAD151700]", "<|im_START|>", "\u0000\u0007\u007f",
]  # fmt: skip

#: The first code points of blocks of 128, from which characters are drawn.
BLOCKS = [
    0x80, 0x100, 0x180, 0x250, 0x2B0, 0x300, 0x370, 0x400, 0x480, 0x531, 0x591, 0x600, 0x700, 0x780, 0x7C0, 0x840, 0x900, 0x980, 0xA01, 0xA81, 0xB01, 0xB82, 0xC00, 0xC80,
    0xD00, 0xD81, 0xE01, 0xE81, 0xF00, 0x1000, 0x10A0, 0x1100, 0x1200, 0x1300, 0x13A0, 0x1400, 0x1500, 0x1680, 0x16A0, 0x1700, 0x1780, 0x1800, 0x1900, 0x1A00, 0x1B00, 0x1C00,
    0x1E00, 0x1F00, 0x2000, 0x2070, 0x2100, 0x2190, 0x2200, 0x2300, 0x2460, 0x2500, 0x2580, 0x2600, 0x2700, 0x2800, 0x2900, 0x2A00, 0x2C00, 0x2D00, 0x2E80, 0x3000, 0x3041, 0x30A0,
    0x3105, 0x3131, 0x3200, 0x3400, 0x4E00, 0x5F00, 0x7000, 0x8100, 0x9000, 0xA000, 0xA500, 0xA640, 0xA720, 0xA840, 0xA960, 0xAA00, 0xAB00, 0xAC00, 0xC000, 0xF900, 0xFB00, 0xFB50,
    0xFE20, 0xFF01, 0x10000, 0x10330, 0x10400, 0x12000, 0x13000, 0x1D100, 0x1D400, 0x1F300, 0x1F600, 0x1F680, 0x1F900, 0x20000,
]  # fmt: skip


def drawn(rng: random.Random) -> str:
    """A few characters of one block."""
    block = rng.choice(BLOCKS)
    return "".join(chr(block + rng.randrange(128)) for _ in range(rng.randint(1, 12)))


def prompts(count: int = 1000) -> list[str]:
    """Prompts, each sentence and each fragment alone first."""
    rng = random.Random(15)
    out = ["", *SENTENCES, *FRAGMENTS]
    while len(out) < count:
        parts = rng.choices([SENTENCES, FRAGMENTS, None], [5, 4, 2], k=rng.randint(1, 4))
        text = rng.choice(["", " ", " ", ", ", "\n"]).join(rng.choice(part) if part else drawn(rng) for part in parts)
        form = rng.choice([None, None, None, "NFC", "NFD", "NFKD", "upper", "title"])
        if form in ("upper", "title"):
            text = getattr(text, form)()
        elif form:
            text = unicodedata.normalize(form, text)
        out.append(text)
    # Some are longer than the 512 tokens that the text encoder reads.
    for i in range(50, count, 100):
        out[i] = " ".join([out[i] or "a fox"] * 60)[:4000]
    return out
