-- Demo data, vocabulary: 2000 English words, the frequent ones first.
--
-- purpose     schema bc003_generator; pools.words holds 65,536 slots, so that two bytes of a digest pick a word;
--             the word of rank r has a share of slots proportional to 1 / (r + 2), as words of a language have
--             (Zipf; Mandelbrot's form); pools.agents holds 400 user agents, pools.addresses 6,000 IPv4 addresses
-- privilege   CREATE on the database
-- versions    PostgreSQL 14 to 18, the same pools on each: integers and SHA-2 only, no float, no random()

CREATE SCHEMA bc003_generator;

CREATE TABLE bc003_generator.pools AS
WITH ranked AS (
    SELECT word, rank, 1000000000 / (rank + 2) AS weight
    FROM regexp_split_to_table($words$
the is of in to and for if are object be an class that as or with not it by this value function method name can
statement exception list when type self expression return from module string instance used other attribute
sequence on objects will one code pattern all defined called same which only new arguments see may also should
argument types dictionary except values at any key set its methods suite built none clause version must true no
using have number format names note dict they block default but following str assignment namespace first example
call tuple there try executed case such item has then false operations special keyword these raised definition
classes target functions hash syntax context characters given character items getitem attributes parameter
mapping result section keys line global two changed import raise does than print more base support current each
range execution identifier stmt expressions otherwise was length returns implement variables empty use variable
finally point created within comparison index standard sequences positional operation local instances numbers
pep order most else raises def pdb bound strings left iterable their like subject match numeric so slots len
form reference typeerror operator where some end mutable evaluated integer slice patterns expr before descriptor
annotations literals you returned traceback statements either found del right always bytes int frame equivalent
single after async sys define contains foo continue those binding start while manager get interpreter do
collections containing non present last future passed command access next scope defines decimal yield assigned
corresponding occurs both different instead exceptions zero through specified into lists three equal without
uses body literal level multiple behavior matching parameters file metaclass program part cannot iterator calls
test being negative possible up references exit abc been user data explicitly available elements way including
details unless complex getattr formatting described loop step normal immutable subclass matches debugger copy
time create over obj operators means container init width digits iter considered below implemented nested
unicode invoked breakpoint field error integers rather optional information pass group definitions keywords
evaluation repr examples whose itself break arg commands builtins option stack slicing provide mappings yields
runtime precision separator rules count cls between once directly identifiers descriptors however float added
allows original meaning coroutine await were enter getattribute because boolean handler arbitrary display
evaluate handled contain floating modules represent args source assignments add specification augmented even
another documentation globals additional custom valid compare imported eq re starred binary func would via sets
how common arithmetic converted clauses execute ascii simple refer appropriate detail during treated lookup attr
owner required space reversed co generator trace subscription about least primary property tuples stored
decorators iteration bit search metaclasses division sign operand formal notation calling star read determined
comma follows defaults similar allowed them now removed control setting delete override sub dictionaries
contents until missing stop formatted constructor less out done writable identity language dir own since pairs
omitted change free hashable digit evaluates resulting side pair place back setattr allow asynchronous made
above fails total certain defining whether interpreted bool semantics provided lines valueerror guard lambda
split presentation parentheses feature static leading named text actually still callable normally subclasses
bitwise stdin cases contained around clear newline prefix view separated trailing targets previously description
addition never library customize accessed changes listed help exec equality typically caught condition sep top
resolution double append run remove pow table under include occur nonlocal already cause usually exactly old py
transformed spam super bases ror truth replaced enclosing follow comparisons particular membership supported
conversion spec reverse hand effect hit underscore supports deletion needs general creation saved slot
inheritance priority results executes abstract tests exist id managers position bar lst replacement hex chars
debugging debug latter remaining creating lower specific operands annotation automatically syntaxerror inside
proper important computed mro just well notes followed intended modulo compiled executable terminates specify
supplied explicit recent need entire garbage handling subpatterns capture versions currently encoding entries
represented generic compile hierarchy unlike bytearray event accessing implementing specifying weakref check
derived floor second divmod eval useful nearest comprehension becomes doesn ordering binds iterate continues
hint locals succeed succeeds blocks terms defparameter builds tab concatenation lineno letter indices package
unary backslash escape insert depending various square brackets refers although collection unpacking points exc
imaginary implicit auditing accept affect overridden protocol precedence parent declaration needed customized
power don environment written flow containers often decorator constructed what lt element words substring header
selects testing due guaranteed generally irrefutable underlying subpattern fixed related insertion whitespace
full indicates alias resolved errors positive efficient bind assign existing upper regular difference aexit
invocation doc represents specifies dynamic direct bindings declared grammar compound handlers repeated deleted
virtual reached oserror usage loaded later exited quotes matched against happened users real times penguin cased
recommended options correctly identified breakpoints main aliases features letters locale greater occurred
includes copied relative runtimeerror bacon suffix column maxsplit four enclosed apply actual modified proposal
provides semantically outside happens inherits customizing avoid searched kind depends decorated undefined
output works produce applied style mod shift xor appear rich based compared ordered frozenset sorted find
executing makes previous wrapped included grouping further structural here wildcard raw byte formed isinstance
reflected enabled interactive script make quote fill uppercase lowercase retrieved baz pop update sort enum
assert convenient many thus indexerror implies applies private hints coroutines running aenter info causes
builtin therefore occurring lexical naming underscores inserted occurrence mechanism appears third invoking
inspect invoke unchanged classmethod individual significant automatic desired prevent repetition known ellipsis
nor roughly possibly excess gives op ranges rest translated cycle soft open entry typical caller warning printed
ne implements system filename bpnumber fields align category emulate iadd trunc keyerror bits indexed myclass tb
illegal outer evaluating caused anext array attempt longer hence inserting converts accessible customization
adding starting looked neither together convert abs radd singleton emulating processed could introduced though
restriction nan themselves cleanup handle preceding guarantees ignored takes skip flag anything selected rule
steps every modifies files modifying take compute extension size implicitly process recognized ignore removes
restrictions model extend fail digitpart alignment padding octal large larger reserved memory falls something
prepare referenced menu map bytecode views requested failed starts assigns recursively respectively necessary
properties subscript setitem scopes funcdef funcname aiter able footnotes propagated registered docstring
nameerror begins looking sensitive attempted store raising overrides etc moduletype require passes indicate
unbound said differ produced overriding absolute strictly commonly syntactically filled purpose collected
inherit preserved basic iterating colon conditional surrounding attached we temporarily proceeds reason write
signed maybe duplicate detected work associated posonly starargs substituted initialized declarations wishes
suppress destroyed resource mini le gt ge usable reflection requires post mortem interface prompt debugged pdbrc
utf displays flags aligned centered coefficient replacing oct bin public meta integral rsub become round
representing behaviour bad popitem indexes hook cell fillchar lc isupper spacious splits escapes unavailable
juice sorting optimization message attributeref prefixed asked occurrences creates leaving compatible replace
taken combination augtarget performs performed annotated typing accesses delattr describes likely accordingly
attempts weak per levels mul rmul truediv floordiv passing really placed determine shared descriptions newly
discarded programmer lead contexts indirect fact fraction across counter numerical internal depend unhashable
groups elif cleared alive handles denote logical precise successful purposes immediately quoted established
several accepted wrapper gets mentioned presence immediate forward state frames look printable convention
understood val mode entered again indicated typed had yet com jump shown word braces denotes earlier exponent
zeros outputs scientific shows too center database xid titlecase compatibility attempting release nothing fall
math sense close unique stopiteration maxsize overflowerror genericalias algorithm comparing positions removing
removeprefix removesuffix splitlines boundaries extra br rb iterated best practices instruction dictview dishes
eggs sausage displayed perform optionally minus final necessarily inst invalid sometimes updated augop symbols
assigning looks lastly param iterables tion tpflags deque pe appearing long happen verbosemodule lookups parents
appropriately chain excluding contrast declare members speed limited child retrieving former mathematical
slicings produces providing regardless having unpackings originally proposed classname subclassing much
restrictive unexpected formally imply indirectly identities unequal lly performance consistency inverse negation
constructs subsequent problem tested skips generate started eg mix prior suppressed background input success
failure discussed dependent shorthand failing triple usual compares syntactic pre receiving defaulting postponed
resources upon returning ensure stderr informal paragraph swapped checking constant ocert org affects programs
listing want restart explained kwds stdout separating bottom determines path active ll curly resolving
exceptional api beginning extends introduces anywhere my presented dynamically forces differently thousands
formats show inf coordinates latitude longitude coord zip elsewhere lu nfkc www loading ways qualified pkg
compiler ternary rpow imul invert whenever ndigits ceil preserve latin capital delitem versus improper stride
meets parameterized iskeyword hello lstrip stripped arthur splitting rstrip ab fg strip bill friends fr rf
backslashes finite intrinsic os red accepts operates whoami concatenating extended circumstances modify
primaries asterisk destructor exists writes subscripted bounds changing messages confusion prints achieve
similarly mangled expressing tools parenthesized suspend standalone supporting textually inserts front consists
floatnumber evaluations obtain intentional reasons infinite bypassed meaningful deletions sorts unaffected party
dotted staticmethod inheriting action conventional smaller printf sum rand rxor null series please unfilled
calculated consequence max classdef mostly shifting comp opn perhaps motivation correct intuitive singletons
identical inputs consistent enforce member ends dedent separate suites repeats turn keeping reset combined along
leaves encapsulated reuse location surrounded tutorial obtained vary rely exact cache checked bubbles purely
forms vertical ambiguity corresponds scoping stops soon construction hasattr fashion expressed especially
enables anonymous lambdas powerful preserving kinds locking describe conversions doing postpone exits cyclic
cycles gc nicely differs implied functools retrieve incorrectly remain invocations html nonzero easily cmd
tracebacks slightly runeval runcall nosigint readrc sigint give touch enable spaces entering exclamation parser
directory breaks stopping pi very clashes interaction namespaces breaking piece limitation subtle faq searching
pointfloat formatter share brace escaped preceded isdecimal specifiers weight coercion printing alternate exp
datetime besides separately referred unicodedata lm lo plus nd combining act initializing commas hooks locally
dots subpkg core off behaves lshift rshift situations why neg pos delegation deprecated unchangeable mutability
unreachable detection linked keep external almost chaining approach cedilla involving constants tightly
setdefault correctness loops subscripting consider qualname degree closure issubclass introducing might checkers
bypassing cost strict expandtabs ctype decode alphabetic isidentifier according excepting banana join
combinations translation ordinals mapped delimiter monty consecutive keepends feed carriage swapcase title zfill
stringprefix bytesprefix longbytesitem ning unrecognized arrays machine ffff working getting alist updates io th
storing shallow reversible symbol easier imposed meet economy remind assume ultimately decide validity causing
nonnegative maps inclusive overlaps rewritten caveat statically applicable comments suspended resumed stuff
concept lost memoryview atom ham independent stringliteral bytesliteral imagnumber correspond tree asymmetry
efficiency fake recursion wants fine grained verbose objclass assist introspection callables expected continuing
assembled simplest invokes searches redefinition redefine acquire behaviors us deny significantly improved
reserves prevents unlisted overwrite inaccessible renders nonempty docstrings recognised getdoc slotted layouts
violations fallback awaitable apart matrix remainder equals connected subtraction skipping keeps translates
avoided parse receives ym unusual acceptable advanced finishes reliable heavily decorating hides legal pretty
notion think inequality reflexive involved ieee ord lets enforces reflexivity superset relations min symmetric
exhaustive illustrate marked tried whole finalization controlled semicolon indented indent continuation begin
ambiguities sections repeatedly goes exhausted overwrites overwritten finished successively inspects canceled
inner partial roup wrap reraised multi overview optimizations completed guards succeeded alone notations
assertion closed illustration document reflect manner disallowed ii understand appending whats telly zoo keyed
merely simplified ability eager saving restoring unlocking closing opened reraise phrase superclass mainly
constructing finalizer improperly destruction resurrection resurrected decrements reaches going collector
precarious thread lock blocking deadlock interrupted shutdown assuring official recreate unambiguous expectation
concise delegate delegates inverts relationships among root hashed advised components play packing hashing nick
color truncates ssize interoperate sizes sure easy wrong bucket retain told parentclass salted unpredictable
random predictable protection denial service carefully chosen exploit worst complexity http advisories varies
randomization lib signal extract pm explanation whatever console instantiating completekey originate ctrl
controls tracing elp alternatives blank assumed middle workaround home move honored temporary disable remains
disabled terminate your quit desirable nearly giving encountered jumps interesting subscriptions rightmost
conditions detects
$words$, '[[:space:]]+') WITH ORDINALITY AS split (word, rank)
    WHERE word <> ''
), bounded AS (
    SELECT word, sum(weight) OVER (ORDER BY rank) * 65536 / sum(weight) OVER () AS upper_bound, rank
    FROM ranked
), spread AS (
    SELECT word, rank,
           trunc(upper_bound)::integer - coalesce(lag(trunc(upper_bound)::integer) OVER (ORDER BY rank), 0) AS slots
    FROM bounded
), agents AS (
    SELECT number, sha256(convert_to('agent/' || number, 'UTF8')) AS digest FROM generate_series(1, 400) AS number
), described AS (
    SELECT number, get_byte(digest, 0) % 3 AS browser, 100 + get_byte(digest, 1) % 31 AS version,
           4000 + get_byte(digest, 2) * 11 AS build, get_byte(digest, 3) % 200 AS patch,
           (ARRAY['Windows NT 10.0; Win64; x64', 'Macintosh; Intel Mac OS X 10_15_7', 'X11; Linux x86_64',
                  'iPhone; CPU iPhone OS 17_' || get_byte(digest, 4) % 8 || ' like Mac OS X',
                  'Linux; Android 14; SM-S91' || get_byte(digest, 4) % 9 || 'B'])[1 + get_byte(digest, 5) % 5] AS system
    FROM agents
)
SELECT
    (SELECT array_agg(word ORDER BY rank, slot) FROM spread, generate_series(1, slots) AS slot) AS words,
    (SELECT array_agg('Mozilla/5.0 (' || system || CASE browser
                WHEN 0 THEN ') AppleWebKit/537.36 (KHTML, like Gecko) Chrome/' || version || '.0.' || build
                            || '.' || patch || ' Safari/537.36'
                WHEN 1 THEN '; rv:' || version || '.0) Gecko/20100101 Firefox/' || version || '.0'
                ELSE ') AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.' || patch % 7 || ' Safari/605.1.15'
            END ORDER BY number) FROM described) AS agents,
    (SELECT array_agg((ARRAY[10, 10, 192, 81, 92, 176, 193])[1 + get_byte(digest, 0) % 7] || '.' || get_byte(digest, 1)
                || '.' || get_byte(digest, 2) || '.' || 1 + get_byte(digest, 3) % 254 ORDER BY number)
     FROM (SELECT number, sha256(convert_to('address/' || number, 'UTF8')) AS digest
           FROM generate_series(1, 6000) AS number) AS addresses) AS addresses;
