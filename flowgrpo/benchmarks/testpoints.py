"""The 27 kinds of test point of UniGenBench, its ten dimensions and its themes, in both languages of its files.

Names are those of the published files (data set CodeGoat24/UniGenBench, CC BY 4.0; arXiv 2508.20751, 2510.18701).
The definitions are this project's own wording.
"""

from __future__ import annotations

from types import MappingProxyType

DIMENSIONS = (
    "Style",
    "World Knowledge",
    "Attribute",
    "Action",
    "Relationship",
    "Logical Reasoning",
    "Grammar",
    "Compound",
    "Entity Layout",
    "Text Generation",
)
"""In the order of the leaderboard's columns."""

TABLE: tuple[tuple[str, str, str], ...] = (
    ("Style", "风格", "The picture as a whole is in the style that the prompt names."),
    ("World Knowledge", "世界知识", "A person, place, thing or custom of the real world looks as it is known to look."),
    ("Attribute - Quantity", "属性-数量", "There are exactly as many of the thing as the prompt says."),
    ("Attribute - Expression", "属性-表情", "The face shows the emotion or expression that the prompt asks for."),
    (
        "Attribute - Material",
        "属性-材质",
        "The thing visibly has the material or texture that is named.",
    ),
    ("Attribute - Size", "属性-大小", "The thing is as large or small as the prompt says."),
    ("Attribute - Shape", "属性-形状", "The thing has the shape that is named."),
    ("Attribute - Color", "属性-颜色", "The thing has the colour that is named."),
    (
        "Action - Hand (Character/Anthropomorphic)",
        "动作-人物/拟人手部动作",
        "A person, or a figure that behaves like one, does with its hands what the prompt says.",
    ),
    (
        "Action - Full-body (Character/Anthropomorphic)",
        "动作-人物/拟人全身动作",
        "A person, or a figure that behaves like one, moves or holds its whole body as the prompt says.",
    ),
    ("Action - Animal", "动作-动物动作", "An animal does what the prompt says."),
    (
        "Action - Non-contact Interaction",
        "动作-实体间无接触互动",
        "Two or more act upon each other without touching, as by a look or a call.",
    ),
    ("Action - Contact Interaction", "动作-实体间有接触互动", "Two or more act upon each other and touch."),
    ("Action - State", "动作-状态", "The thing is in the lasting state that the prompt describes."),
    ("Relationship - Composition", "关系-构成关系", "One thing is made or put together from the other things named."),
    ("Relationship - Similarity", "关系-相似关系", "Things are alike in the way that the prompt says."),
    ("Relationship - Inclusion", "关系-包含关系", "One thing is inside, or is a part of, the other."),
    (
        "Relationship - Comparison",
        "关系-比较关系",
        "Two things differ in the way and direction stated.",
    ),
    ("Compound - Imagination", "复合考点-想象力", "What cannot exist in reality is shown as the prompt imagines it."),
    (
        "Compound - Feature Matching",
        "复合考点-不同实体特征匹配",
        "Each of several things has its own features and none of another's.",
    ),
    ("Grammar - Pronoun Reference", "语法-代词指代", "A pronoun of the prompt was taken to mean the right thing."),
    ("Grammar - Consistency", "语法-统一性", "What the prompt says of all members of a group holds for each of them."),
    ("Grammar - Negation", "语法-否定", "What the prompt excludes is absent."),
    ("Entity Layout - Two-Dimensional Space", "实体布局-二维空间", "Things are placed in the picture plane as asked."),
    ("Entity Layout - Three-Dimensional Space", "实体布局-三维空间", "Things are placed in depth as asked."),
    ("Logical Reasoning", "逻辑推理", "The picture shows what follows from the prompt by cause, purpose or contrast."),
    (
        "Text Generation",
        "文本生成",
        "The words that were asked for stand in the picture, legible and without fault.",
    ),
)
"""(English name, Chinese name, definition)."""

ENGLISH = MappingProxyType({name: english for english, chinese, _ in TABLE for name in (english, chinese)})
"""Either spelling -> the English name."""
DEFINITIONS = MappingProxyType({english: definition for english, _, definition in TABLE})

THEMES = MappingProxyType(
    {
        "艺术": "Art",
        "影视故事": "Film & Story",
        "配图": "Illustration",
        "设计": "Design",
        "创意发散": "Creative Divergence",
    }
)
"""Chinese -> English; the English files use these five names only."""

SUBTHEMES = MappingProxyType(
    {
        "Art-Graphic Art": "Graphic Art",
        "Art-Photography Art": "Photography Art",
        "Art-Three-dimensional Art": "Sculptural Art",
        "Creative divergence-other": "Other",
        "Creativity divergence-imagination divergence": "Imaginative Thinking",
        "Design-Game Design": "Game Design",
        "Design-Space Design": "Spatial Design",
        "Logo/icon design": "Logo/Icon Design",
        "Mapping-Content Mapping": "Content Illustration",
        "平面艺术": "Graphic Art",
        "摄影艺术": "Photography Art",
        "立体艺术": "Sculptural Art",
        "其他": "Other",
        "写实": "Realism",
        "动画": "Animation",
        "科幻": "Sci-Fi",
        "想象力发散": "Imaginative Thinking",
        "内容配图": "Content Illustration",
        "文案配图": "Copywriting Illustration",
        "ip设计": "IP Design",
        "logo/icon设计": "Logo/Icon Design",
        "广告/电商设计": "Advertising/E-commerce Design",
        "服装设计": "Fashion Design",
        "海报设计": "Poster Design",
        "游戏设计": "Game Design",
        "空间设计": "Spatial Design",
        "设计素材": "Design Assets",
        "软件界面设计": "UI Design",
    }
)
"""Spellings of the files -> the 20 names of the published overview ("Other" stands under two themes)."""


def theme_names(theme: str, subtheme: str) -> tuple[str, str]:
    """The English theme and subtheme of a row; names that the benchmark does not know stay as they are.

    The Chinese files prefix some subthemes with their theme ("艺术-平面艺术"), which is dropped.
    """
    bare = subtheme.removeprefix(f"{theme}-") if theme in THEMES else subtheme
    return THEMES.get(theme, theme), SUBTHEMES.get(bare, bare)
