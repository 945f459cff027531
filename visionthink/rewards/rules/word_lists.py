"""The words that the rules know, in one place. Currency codes come from Babel, number words from text2num, units from pint."""


def _set(text: str, separator: str | None = None) -> frozenset[str]:
    return frozenset(text.split(separator))


YES = _set("yes yeah yep true correct 是 是的 对 對 有 はい 예 네 oui sí si ja sim")
NO = _set("no nope false incorrect 不是 否 不 没有 沒有 不对 いいえ 아니요 아니오 non nein não nee")
YES_TOO = _set(
    "y n t f yup nah sure indeed affirmative negative absolutely definitely none nobody nothing nil zero untrue course"
)
TRUTH = _set("true false correct incorrect")
NEGATION = _set("not no never none neither nor without except cannot nothing")
HEDGES = _set(  # words of a text that offers more than one answer, compares, or takes something back
    "or maybe perhaps possibly probably either might may could unsure likely but unless rather instead between however although "
    "wait actually sorry besides apart than least most over under below above nearly almost up about around approximately roughly"
)
TAKES_BACK = _set(
    "but however although though appears seems looks likely probably possibly guess maybe perhaps or actually wait wrong"
)
FILLERS = _set("there it they he she this that these those is are was were has have had do does did can a an the of in on at")
APPROXIMATELY = "approximately approx. approx about around roughly circa ca. ca ~ ≈ 约 大约 約".split()
REFUSALS = _set(  # how a text begins that declines to answer, in lower case and without short forms
    "i do not know|i cannot|i can not|i could not|i am unable|i am not able|i am not sure|i am sorry|i do not have|cannot be|"
    "can not be|could not be|cannot determine|cannot tell|cannot answer|cannot say|cannot see|cannot read|unable to|unreadable|"
    "impossible to|not enough information|insufficient information|no idea|it is unclear|too blurry|illegible|unknown|n/a|"
    "not applicable|undetermined|unanswerable|not answerable|无法确定|无法回答|无法判断|不知道|わかりません|알 수 없",
    "|",
)
CASED = _set("genotype allele unit formula symbol code password letter letters")  # words of questions where case counts
READ = _set("written writing says say text word words reads printed title sign")  # what is written is not what is meant
DECLINES = _set(  # words that add nothing to a refusal
    "from image picture photo figure chart document determine determined tell answer read see seen given information "
    "question to based provided know be not clearly visible available here this enough about sorry any identify people "
    "help with that because was view assist but s"
)
LACKS = _set(  # words of a short text that may be a refusal
    "unknown undetermined "
    "indeterminate invisible obscured hidden unsuitable undefined ambiguous unbekannt inconnu desconocido depends unclear "
    "blurry blurred uncertain unidentifiable insufficient dark focus missing blank empty none nothing null"
)
UNANSWERABLE = _set("unanswerable|not answerable|unsuitable|unsuitable image|cannot be determined|unknown|无法确定", "|")
SCALES = {  # words behind a number that multiply it
    word: 10**power
    for power, names in (
        (2, "hundred"), (3, "thousand thousands tausend"), (5, "lakh lakhs"), (7, "crore crores"),
        (6, "million millions mn mio mio. millionen millón millones milhão milhões milione milioni miljoen"),
        (9, "billion billions bn milliard milliards milliarde milliarden mrd mrd. miljard"), (12, "trillion trillions tn"),
    ) for word in names.split()
}  # fmt: skip
# words of English questions; others may write 1.234,5
ENGLISH = _set("what how which who where when why many much are does find read give evaluate")
MONEY = {  # which currencies a sign or a name may stand for
    word: _set(codes)
    for names, codes in (
        ("$ dollar dollars", "USD CAD AUD NZD SGD HKD MXN"), ("us$", "USD"), ("€ euro euros", "EUR"), ("£ sterling", "GBP"),
        ("¥", "JPY CNY"), ("yen 円 엔", "JPY"), ("yuan rmb 元 块", "CNY TWD"), ("₹ rs rs. rupee rupees", "INR PKR LKR NPR"),
        ("₩ won 원", "KRW"), ("r$ reais", "BRL"), ("kr kr. kronor kroner", "SEK NOK DKK ISK"), ("cent cents ¢", "CENT"),
    ) for word in names.split()
}  # fmt: skip
PERCENT = _set("%|percent|pct|prozent|per cent|% of total|% off|percent off|% vol|pour cent|por ciento", "|")
UNITS = _set(  # as pint names them, with any prefix; it knows many more, which answers hardly mean: `cats` are a pressure
    "meter inch foot yard mile nautical_mile light_year parsec astronomical_unit angstrom micron gram pound ounce metric_ton "
    "second minute hour day week month year ampere kelvin degree_Celsius degree_Fahrenheit mole hertz newton "
    "pascal bar standard_atmosphere pound_force_per_square_inch meter_Hg joule calorie electron_volt ohm "
    "watt_hour watt horsepower volt siemens farad henry coulomb weber tesla liter gallon pint quart cup "
    "cubic_centimeter acre hectare degree radian bit byte mile_per_hour kilometer_per_hour knot ppm decibel molar"
)
SPELLINGS = {  # spellings that pint does not know
    "°c": "degC", "degrees celsius": "degC", "degree celsius": "degC", "celsius": "degC", "°f": "degF", "fahrenheit": "degF",
    "degrees fahrenheit": "degF", "°": "degree", "度": "degree", "KB": "kB", "Kb": "kb", "米": "m", "厘米": "cm", "公里": "km",
    "公斤": "kg", "克": "g", "秒": "second", "分钟": "minute", "小时": "hour", "'": "foot", "''": "inch", '"': "inch",
}  # fmt: skip
COMBINED = _set("both all neither none")
TWO_SIDED = _set("and or than versus")
# behind a number, these change it
NO_NOUNS = _set("pi half halves third thirds quarter quarters dozen times squared cubed point and to plus minus percent")
AMOUNTS = _set(  # words of questions for an amount: only there are 3.10 and 3.1, 1/2 and 2/4, 50% and 0.5 the same
    "how much many value total sum average mean median difference percent percentage share fraction proportion probability ratio "
    "chance price cost revenue population area perimeter volume length width height distance speed weight mass temperature angle "
    "rate amount count result evaluate calculate compute solve find size solution portion part slope level energy magnitude "
    "charge content cash tax deposit coordinate interest profit income volume"
)
FORMS = _set("simplify simplest reduce lowest convert express rewrite version release edition time code zip")
CHANGES = _set(  # a question with one of these may ask for a difference: a fall of 5 is -5, and a rise of 10 °C one of 18 °F
    "differ differs difference rise rose risen fall fell fallen drop dropped change changed increase increased decrease "
    "decreased decline declined by loss lose lost gain down up"
)
# words of questions that may ask for two numbers (3,5 is then no 3.5), and for a list whose order counts
SEVERAL = _set("two three both pair coordinates coordinate numbers values solutions points point roots zeros")
SHARES = r"%|how much|percent|proportion|share|probability|chance|fraction|rate"
SETS = _set("which who whom are list name all roots zeros solutions factors ingredients values")  # words of questions for a set
IN_ORDER = _set(  # words of questions for a list whose order counts
    "x y length width mean left right top largest first outward alphabetically sequence combination title says and order "
    "rank sort sorted respectively coordinates coordinate ascending descending from then"
)
DURATIONS = _set("running long duration timer stopwatch verse")
NO_DATES = _set("ratio score scores odds scale aspect pressure signature fraction")
CALENDAR = _set("day days weekday when date month months")
