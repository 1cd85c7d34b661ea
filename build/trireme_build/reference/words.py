"""Words and characters that the generated tasks are made of."""

import random

#: English words of 3 to 8 letters, lower case.
ENGLISH = tuple(
    """
    able acid acorn actor agent album alley amber anchor angle animal apple april apron arch arena arrow ash aspen
    atlas attic autumn avenue badge baker balance ballad banana banjo banner barley barn barrel basin basket beach
    beacon beam bean bear beaver bell bench berry bicycle birch bird biscuit blanket bloom board boat bonfire book
    border bottle bowl branch bread breeze brick bridge bright bronze brook broom brush bucket buffalo butter button
    cabin cable cactus camel camera canal candle canoe canvas captain carbon cargo carpet carrot castle cedar cellar
    chain chair chalk charcoal cherry chest chimney circle city clay cliff clock cloud clover coast cobalt coffee coin
    comet compass copper coral corner cotton cousin cradle crane crystal curtain cypress dagger daisy dancer dawn deck
    deer delta desert diamond dinner dolphin donkey door dragon drum eagle early east echo eleven ember engine equal
    estuary evening fabric falcon family farmer feather ferry fiddle field finger fire fish flag flame flint flower
    flute forest fossil fountain fox friend frost galley garden garlic gate ginger glacier glass globe goat gold goose
    granite grape grass gravel guitar hammer harbor harvest hawk hazel heron hill honey horizon horse house hull ink
    iron island ivory jacket jade jasmine jelly jewel journey jungle kettle key kitchen kite ladder lagoon lake lamp
    lantern laurel lava leaf lemon letter library lily linen lion lobster lotus lumber magnet maple marble market
    marsh mast meadow melon metal middle mill mineral mirror mist model moon morning mosaic moss mountain mouse museum
    music nectar needle nest night noble north nutmeg oak oar oasis ocean octopus olive onion opal orange orbit
    orchard otter oven owl oxygen paddle palace panda paper parade parrot pasture peach pearl pebble pencil pepper
    petal piano pigeon pilot pine planet plaza plum pocket poem pond poplar port potato prairie prism puddle puzzle
    quarry queen quiet quilt rabbit raft rain rainbow raven reef ribbon river road robin rocket roof root rope rose
    rower rudder saddle saffron sail salmon sand sapphire scarf school sea season seed shadow sheep shell ship shore
    silk silver sister sky smoke snow soap sparrow spice spider spring square squirrel stable star station steam steel
    stone storm stove straw stream street summer sun swan table tailor tandem teacher temple tent thunder tiger timber
    tomato topaz torch tower town train tree triton trumpet tulip tunnel turtle valley vanilla velvet vessel village
    violet violin voyage wagon walnut water wave weather west whale wheat wheel willow wind window winter wolf wood
    wool yellow zebra zinc
    """.split()
)

_CONSONANTS = "bcdfghjklmnpqrstvwxyz"
_VOWELS = "aeiou"
_LETTERS = _VOWELS + _CONSONANTS

CJK = (
    "你好世界我们大家早上晚安天地人山水火木金土日月星风雨雪云海江河湖春夏秋冬东西南北中国语言文字书读写学生老师朋友"
    "父母兄弟姐妹家门窗灯桌椅茶饭米面鱼肉菜果花草树鸟马牛羊猫狗龙船桨舟港城市路桥车站电话时间今明昨年前后左右高低长短"
    "红黄蓝白黑一二三四五六七八九十百千万こんにちはありがとうさようならカタカナテスト漢字日本語東京안녕하세요감사합니다한국어"
)
DEVANAGARI = "नमस्ते दुनिया हिन्दी भारत पानी सूरज चाँद नाव नदी शुभ रात्रि धन्यवाद मित्र किताब घर फूल क्षत्रिय ज्ञान श्री १२३".split()
ARABIC = "مرحبا العالم سلام شكرا كتاب بيت قمر شمس بحر نهر سفينة مدينة صباح الخير مساء النور لغة عربية ١٢٣".split()
ACCENTED = (
    "Grüße Straße café naïve façade déjà crème señor niño mañana Ångström smörgås højre łódź žluťoučký kůň "
    "être où garçon Übung Öl Äpfel não coração çekiç şehir ığdır Đà Nẵng tiếng Việt".split()
)
EMOJI = (
    "👋 😀 😂 🥳 🚀 🌊 🔥 ⭐ ❤️ 👍 👍🏽 👋🏿 🧑‍🚀 👩‍💻 👨‍👩‍👧 👩‍❤️‍👨 🏳️‍🌈 🇬🇷 🇯🇵 🇮🇳 🚣 🚣‍♀️ ⚓ 🐚 🐙 ✅ 1️⃣ ☕ 🎶 🧭".split()
)
JSON_SNIPPETS = (
    '{"a": 1}', '{"id": 42}', "[1, 2, 3]", '{"ok": true}', "[]", "{}", '{"k": null}', '["x", "y"]', '{"n": -3.5}',
    "[[0, 1], [2]]", '{"s": "é"}', '{"a": {"b": 2}}', "(x + y) * 2", "a == b", "f(x) -> y", "<b>hi</b>", "i += 1;",
)  # fmt: skip

#: Assigned code points that a `Repeat:` text may draw from besides the pools, as (first, last).
RANGES = ((0x00C0, 0x017F), (0x0391, 0x03C9), (0x0410, 0x044F), (0x05D0, 0x05EA), (0x0905, 0x0939), (0x0E01, 0x0E2E),
          (0x3041, 0x3093), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0x1F600, 0x1F64F), (0x1F680, 0x1F6C0))  # fmt: skip


def word(rng: random.Random) -> str:
    """A lower-case word of 3 to 8 letters: English, pronounceable, or random letters."""
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(ENGLISH)
    length = rng.randint(3, 8)
    if kind < 0.65:
        vowel_first = rng.random() < 0.3
        return "".join(rng.choice(_VOWELS if (i + vowel_first) % 2 else _CONSONANTS) for i in range(length))
    alphabet = _LETTERS if rng.random() < 0.7 else rng.sample(_LETTERS, rng.randint(2, 4))
    return "".join(rng.choice(alphabet) for _ in range(length))


def _piece(rng: random.Random) -> str:
    kind = rng.randrange(10)
    if kind == 0:
        return "".join(rng.choice(CJK) for _ in range(rng.randint(1, 6)))
    if kind == 1:
        return rng.choice(DEVANAGARI)
    if kind == 2:
        return rng.choice(ARABIC)
    if kind == 3:
        return rng.choice(ACCENTED)
    if kind == 4:
        return "".join(rng.choice(EMOJI) for _ in range(rng.randint(1, 3)))
    if kind == 5:
        return rng.choice(JSON_SNIPPETS)
    if kind == 6:
        first, last = rng.choice(RANGES)
        return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 6)))
    if kind == 7:
        return str(rng.randint(0, 9999))
    text = word(rng)
    return rng.choice((text, text.capitalize(), text.upper()))


def mixed_text(rng: random.Random, max_characters: int = 24) -> str:
    """Up to `max_characters` code points of mixed scripts, without line breaks or white space at either end."""
    target = rng.randint(1, max_characters)
    text = ""
    for _ in range(8):
        gap = " " * (rng.randint(2, 5) if rng.random() < 0.25 else 1)
        candidate = f"{text}{gap if rng.random() < 0.8 else ''}{_piece(rng)}" if text else _piece(rng)
        if len(candidate) > max_characters:
            break
        text = candidate
        if len(text) >= target:
            break
    return text.strip() or word(rng)
