--
-- Canonical form (RFC 8785) and fingerprint of a request.
--
SET client_encoding = 'UTF8';
CREATE SCHEMA canonical_test;

-- How the fingerprint ends: 'ok', or SQLSTATE, message and hint.
CREATE FUNCTION canonical_test.refusal(request text, exclude text[] DEFAULT '{}')
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    hint text;
BEGIN
    PERFORM idempotency.fingerprint(request, exclude);
    RETURN 'ok';
EXCEPTION WHEN others THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' / ', SQLSTATE, message, nullif(hint, ''));
END $$;

-- The canonical form, or SQLSTATE, message and detail.
CREATE FUNCTION canonical_test.canonical(value text)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
BEGIN
    RETURN idempotency.canonical(value::jsonb);
EXCEPTION WHEN others THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(' / ', SQLSTATE, message, nullif(detail, ''));
END $$;

-- The definition of the fingerprint, given what is to be hashed.
CREATE FUNCTION canonical_test.sha256(kind text, content text)
RETURNS bytea LANGUAGE sql AS $$
    SELECT sha256('idempotency:fingerprint:v1'::bytea || '\x00'::bytea ||
                  convert_to(kind || content, 'UTF8'))
$$;

--
-- Vectors of the reference implementation (cyberphone/json-canonicalization,
-- Apache-2.0).
--
CREATE TABLE canonical_test.vector(name text, input text, output text);
INSERT INTO canonical_test.vector VALUES
('french', $json${
  "peach": "This sorting order",
  "péché": "is wrong according to French",
  "pêche": "but canonicalization MUST",
  "sin":   "ignore locale"
}
$json$,
$json${"peach":"This sorting order","péché":"is wrong according to French","pêche":"but canonicalization MUST","sin":"ignore locale"}$json$),
('structures', $json${
  "1": {"f": {"f": "hi","F": 5} ,"\n": 56.0},
  "10": { },
  "": "empty",
  "a": { },
  "111": [ {"e": "yes","E": "no" } ],
  "A": { }
}$json$,
$json${"":"empty","1":{"\n":56,"f":{"F":5,"f":"hi"}},"10":{},"111":[{"E":"no","e":"yes"}],"A":{},"a":{}}$json$),
('values', $json${
  "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}$json$,
$json${"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}$json$);

SELECT name, idempotency.canonical(input::jsonb) = output AS canonical,
       idempotency.fingerprint(input) =
       canonical_test.sha256('J', output) AS fingerprint
FROM canonical_test.vector ORDER BY name;
-- "values" has a number that a double does not carry: it keeps its digits
SELECT idempotency.fingerprint(input) =
       canonical_test.sha256('J', replace(output, '333333333.3333333', '333333333.33333329')) AS exact
FROM canonical_test.vector WHERE name = 'values';

--
-- Member names are sorted by UTF-16 code units (RFC 8785, 3.2.3): surrogate
-- pairs come before U+E000..U+FFFF
--
SELECT idempotency.canonical('{"\u20ac": "Euro Sign", "\r": "Carriage Return",
    "\ufb33": "Hebrew Letter Dalet With Dagesh", "1": "One",
    "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control",
    "\u00f6": "Latin Small Letter O With Diaeresis"}');
SELECT regexp_replace(idempotency.canonical(
    '{"x\uffff": 1, "x\ue000": 2, "x\udbff\udfff": 3, "x\ud7ff": 4, "x\ud800\udc00": 5, "x": 6, "": 7, "xa": 8}'),
    '[^0-9]', '', 'g') AS utf16_order;

--
-- Strings: only what must be escaped is, and in the shortest way
--
SELECT idempotency.canonical('["\b\t\n\f\r\"\\\/", "\u0001\u001F\u007f\u2028", "\u00e9\ud83d\ude00", "<>&''"]') =
       E'["\\b\\t\\n\\f\\r\\"\\\\/","\\u0001\\u001f\u007f\u2028","\u00e9\U0001F600","<>&''"]' AS strings;

--
-- Numbers: RFC 8785, appendix B.  The first column is the double's bits.
--
CREATE TABLE canonical_test.number(bits text, token text, form text);
INSERT INTO canonical_test.number VALUES
('0000000000000000', '0', '0'),
('8000000000000000', '-0', '0'),
('0000000000000001', '4.9406564584124654e-324', '5e-324'),
('8000000000000001', '-4.9406564584124654e-324', '-5e-324'),
('7fefffffffffffff', '1.7976931348623157e+308', '1.7976931348623157e+308'),
('ffefffffffffffff', '-1.7976931348623157e+308', '-1.7976931348623157e+308'),
('4340000000000000', '9007199254740992', '9007199254740992'),
('c340000000000000', '-9007199254740992', '-9007199254740992'),
('4430000000000000', '295147905179352825856', '295147905179352830000'),
('44b52d02c7e14af5', '9.9999999999999975e+22', '9.999999999999997e+22'),
('44b52d02c7e14af6', '9.9999999999999992e+22', '1e+23'),
('44b52d02c7e14af7', '1.0000000000000001e+23', '1.0000000000000001e+23'),
('444b1ae4d6e2ef4e', '9.9999999999999974e+20', '999999999999999700000'),
('444b1ae4d6e2ef4f', '9.9999999999999987e+20', '999999999999999900000'),
('444b1ae4d6e2ef50', '1e21', '1e+21'),
('3eb0c6f7a0b5ed8c', '9.9999999999999974e-07', '9.999999999999997e-7'),
('3eb0c6f7a0b5ed8d', '0.000001', '0.000001'),
('41b3de4355555553', '333333333.33333319', '333333333.3333332'),
('41b3de4355555554', '333333333.33333325', '333333333.33333325'),
('41b3de4355555555', '333333333.33333331', '333333333.3333333'),
('41b3de4355555556', '333333333.33333337', '333333333.3333334'),
('41b3de4355555557', '333333333.33333343', '333333333.33333343'),
('becbf647612f3696', '-3.3333333333333333e-06', '-0.0000033333333333333333'),
('43143ff3c1cb0959', '1424953923781206.25', '1424953923781206.2'),
-- not in the appendix: the borders of the notations, a power of two
('444b1ae4d6e2ef50', '1000000000000000000000', '1e+21'),
('4415af1d78b58c40', '100000000000000000000', '100000000000000000000'),
('3e7ad7f29abcaf48', '0.0000001', '1e-7'),
('3d2fffffffffffff', '5.6843418860808009e-14', '5.684341886080801e-14'),
('3d30000000000000', '5.6843418860808015e-14', '5.684341886080802e-14'),
('3ff0000000000000', '1.00', '1'),
('4024000000000000', '1E1', '10'),
('3fb999999999999a', '0.1', '0.1');

SELECT bits, token, idempotency.canonical(token::jsonb) AS canonical,
       idempotency.canonical(token::jsonb) = form AS correct,
       encode(float8send(token::float8), 'hex') = bits AS denotes
FROM canonical_test.number;

-- what underflows is zero
SELECT idempotency.canonical('[1e-400, -1e-400, 2e-324, 3e-324]');

-- what overflows a double has no form, wherever it stands
SELECT canonical_test.canonical('{"a": [1e400]}');
SELECT canonical_test.canonical('-1.7976931348623159e308');
SELECT canonical_test.canonical('1.7976931348623158e308');

-- any value has a form
SELECT idempotency.canonical('null'), idempotency.canonical('"a"'),
       idempotency.canonical('{}'), idempotency.canonical('[[], {}, [{}]]');
SELECT idempotency.canonical(NULL) IS NULL AS strict;

--
-- Fingerprint: golden values, computed elsewhere
--
SELECT request, encode(idempotency.fingerprint(request), 'hex') = golden AS golden
FROM (VALUES
    ('{}', '98f5b7e4ed2a68afe042b6d931baad238d3f058e79046d181355ee443938ed23'),
    (' [ ] ', '252af4147513e75b2f2fbf9090b9666eac02dfeaa1693b739e6bf90becb08f05'),
    ('{"note": "Zo\u00eb", "currency": "EUR", "amount": 12.50}', '6245745eb3b5f06fcf043922490e1e16a973cb94b569daf9695e140ed8039fdf'),
    ('[12345678901234567890.1, 1e400, 1e-400]', '0229fee2d5894f6f24e82b9b1a9f897c2b118f228cf55d1038e3fe2642bfffb7'),
    ('', '560fc7257c35f50a896128678088469bba5f3c391b383b10703e8b0c6da668c6'),
    ('hello', 'd992a53e90ae1c0b31926af5b304a0d0bde3c62cf89a881387cd3f0ce940d52c'),
    ('42', '6887f7b8a82d5a8ae7f6a55807d67af54574cf38404de6522540a69a003f86f3'),
    ('"a"', '79dc4388249d8303258240d482d56a8af6215be53b1343d2504abd3bdff2f5b1'),
    ('{"a":}', '116fb909b995d2ccc4048952207b0a2ca90e58e08d70720bb4978f5e166fa6dc'),
    ('€', 'e3207b8d0bbb92bcebb49776561d79d042652f3eac847a688548df387a276ac4')
) AS v(request, golden);
SELECT length(idempotency.fingerprint('{}')) AS bytes,
       idempotency.fingerprint(NULL) IS NULL AS null_request,
       idempotency.fingerprint(NULL, '{$}') IS NULL AS null_request_first,
       idempotency.fingerprint('{"a":1}', NULL) = idempotency.fingerprint('{"a":1}') AS null_exclude;

--
-- Which requests are the same?  "unexpected" must stay empty.
--
CREATE TABLE canonical_test.pair(same boolean, a text, b text, exclude text[] DEFAULT '{}');
INSERT INTO canonical_test.pair VALUES
-- layout, order and escapes of JSON do not matter
(true, '{"a":1,"b":[true,null]}', E'\t{ "b" :\r\n[ true , null ] , "a" : 1 }\n'),
(true, '{"\u0061":"\u00e9\/"}', '{"a":"é/"}'),
(true, '["\ud83d\ude00"]', '["😀"]'),
(false, '[1,2]', '[2,1]'),
(false, '{"a":1}', '{"a":1,"b":null}'),
(false, '{"a":"1"}', '{"a":1}'),
(false, '{"a":null}', '{"a":"null"}'),
(false, '[[1],2]', '[[1,2]]'),
(false, '{"a":"é"}', '{"a":"e\u0301"}'),
(false, '{}', '[]'),
-- numbers are the same if they denote the same decimal
(true, '[1.0]', '[1]'), (true, '[1e0]', '[1]'), (true, '[10e-1]', '[1]'),
(true, '[0.1E+1]', '[1]'), (true, '[100]', '[1e2]'), (true, '[0.00120]', '[12e-4]'),
(true, '[-0]', '[0]'), (true, '[0.00]', '[0]'), (true, '[0e5]', '[-0.0e-7]'),
(true, '[0e99999999999999999999]', '[0]'),
(true, '[1e400]', '[10.0e399]'), (true, '[1e-400]', '[0.01e-398]'),
(true, '[12345678901234567890.1]', '[123456789012345678901E-1]'),
(true, '[1e2147483647]', '[10e2147483646]'),
(true, '[1e21]', '[1000000000000000000000]'), (true, '[1e-7]', '[0.0000001]'),
(false, '[1]', '[-1]'), (false, '[1]', '[10]'), (false, '[1]', '[0.1]'),
(false, '[0]', '[1e-400]'), (false, '[1e400]', '[1e401]'), (false, '[1e-400]', '[1e-401]'),
(false, '[1e400]', '[-1e400]'), (false, '[1e400]', '["Infinity"]'),
(false, '[1e2147483647]', '[1e2147483646]'),
(false, '[12345678901234567890.1]', '[12345678901234567890.2]'),
(false, '[12345678901234567890.1]', '[12345678901234567890]'),
(false, '[12345678901234567890]', '[12345678901234567891]'),
(false, '[12345678901234567890]', '[12345678901234567000]'),
(false, '[12345678901234567890]', '[12345678901234567168]'),
(false, '[9007199254740993]', '[9007199254740992]'),
(false, '[0.1]', '[0.1000000000000000055511151231257827]'),
(false, '[1e23]', '[9.999999999999999e22]'),
(false, '[0.30000000000000004]', '[0.3]'),
-- anything else is compared byte for byte, scalars and broken JSON included
(true, 'hello', 'hello'), (true, '', ''), (true, '{"a":', '{"a":'),
(false, 'hello', 'hello '), (false, '', ' '), (false, '1.0', '1'),
(false, '42', ' 42'), (false, '"a"', '"\u0061"'), (false, 'null', 'null '),
(false, '{"a":1,}', '{"a":1, }'), (false, '[01]', '[01 ]'), (false, '{}{}', '{} {}'),
(false, '{a:1}', '{a: 1}'), (false, '[NaN]', '[NaN ]'),
(false, '[object Object],[object Object]', '[object Object], [object Object]'),
(false, '[object object]', '[object  object]'),
-- and never equals JSON
(false, '{}', '{'), (false, '[1]', '1'), (false, '["a"]', '"a"'), (false, '[]', 'J[]'), (false, '', '{}');

INSERT INTO canonical_test.pair VALUES
-- excludes: members
(true, '{"a":1,"b":2}', '{"a":1,"b":3}', '{$.b}'),
(true, '{"a":1,"b":2}', '{"a":1}', '{$.b}'),
(true, '{"a":1}', '{"a":1}', '{$.b}'),
(false, '{"a":1,"b":2}', '{"a":2,"b":2}', '{$.b}'),
(false, '{"a":1,"b":{"b":1}}', '{"a":1,"b":{"b":2}}', '{$.a}'),
(true, '{"meta":{"sent_at":1,"x":2}}', '{"meta":{"sent_at":{"y":[]},"x":2}}', '{$.meta.sent_at}'),
(false, '{"meta":{"sent_at":1,"x":2}}', '{"meta":{"sent_at":1,"x":3}}', '{$.meta.sent_at}'),
(false, '{"sent_at":1}', '{"sent_at":2}', '{$.meta.sent_at}'),
(false, '{"meta":[1]}', '{"meta":[2]}', '{$.meta.sent_at}'),
-- elements and wildcards
(true, '[1,2,3]', '[1,9,3]', '{$[1]}'),
(false, '[1,2,3]', '[1,2,4]', '{$[1]}'), (false, '[1,2,3]', '[1,3]', '{$[1]}'),
(true, '[1,2,3]', '[]', '{$[*]}'), (true, '[1,2,3]', '[]', '{$.*}'),
(true, '{"a":1}', '{}', '{$.*}'), (true, '{"a":1}', '{}', '{$[*]}'),
(false, '{"0":1}', '{"0":2}', '{$[0]}'), (false, '[1]', '[2]', '{$.a}'),
(true, '{"items":[{"at":1,"q":1},{"q":2,"at":3}]}', '{"items":[{"q":1},{"q":2}]}', '{$.items[*].at}'),
(true, '{"items":{"k":{"at":1,"q":1}}}', '{"items":{"k":{"at":2,"q":1}}}', '{$.items[*].at}'),
(false, '{"items":[{"at":1},{"at":2}]}', '{"items":[{"at":1},{"at":3}]}', '{$.items[0].at}'),
(true, '{"a":{"b":{"c":1,"d":1}}}', '{"a":{"b":{"c":2,"d":2}}}', '{$.a.b.c,$.*.*.d}'),
(true, '{"a":{"b":1}}', '{"a":{}}', '{$.a.b.c,$.a.b}'),
-- quoted names, which may hold anything
(true, '{"a b":1,"c":2}', '{"a b":9,"c":2}', ARRAY[$$$['a b']$$]),
(true, '{"a b":1,"c":2}', '{"a b":9,"c":2}', ARRAY['$["a b"]']),
(true, '{"x":{"it''s":1}}', '{"x":{}}', ARRAY[$$$.x['it\'s']$$]),
(true, '{"x":{"it''s":1}}', '{"x":{}}', ARRAY[$$$['x']["it's"]$$]),
(true, '{"q\"q":1}', '{}', ARRAY['$["q\"q"]']),
(true, '{"b\\b":1}', '{}', ARRAY[$$$['b\\b']$$]),
(true, '{"":1}', '{}', ARRAY['$[""]']),
(true, '{"a.b":1}', '{}', ARRAY['$["a.b"]']),
(false, '{"a":{"b":1}}', '{"a":{}}', ARRAY['$["a.b"]']),
(false, '{"a":1}', '{}', ARRAY['$["*"]']), (true, '{"*":1}', '{}', ARRAY['$["*"]']),
(true, '{"\u00e9t\u00e9":1}', '{}', ARRAY['$.été']),
(true, '{"\ud83d\ude00":1}', '{}', ARRAY['$.😀']),
(false, '{"A":1}', '{}', ARRAY['$.a']),
(true, '{"a_1":1}', '{}', ARRAY['$.a_1']),
-- what is not JSON has no parts
(false, 'a=1&b=2', 'a=1&b=3', '{$.b}'), (false, '"b"', '"c"', '{$.*}');

SELECT same, count(*) AS pairs,
       count(*) FILTER (WHERE (idempotency.fingerprint(a, exclude) =
                               idempotency.fingerprint(b, exclude)) <> same) AS unexpected
FROM canonical_test.pair GROUP BY same ORDER BY same;
SELECT * FROM canonical_test.pair
WHERE (idempotency.fingerprint(a, exclude) =
       idempotency.fingerprint(b, exclude)) IS DISTINCT FROM same;

-- what is left out leaves no gap
SELECT idempotency.fingerprint('[1,2,3]', '{$[1]}') = canonical_test.sha256('J', '[1,3]') AS element,
       idempotency.fingerprint('{"a":1,"b":2,"c":3}', '{$.a,$.c}') = canonical_test.sha256('J', '{"b":2}') AS members;
-- the kinds differ for the same bytes
SELECT idempotency.fingerprint('{}') = canonical_test.sha256('J', '{}') AS json,
       idempotency.fingerprint('{}') <> canonical_test.sha256('T', '{}') AS not_text,
       idempotency.fingerprint('{') = canonical_test.sha256('T', '{') AS text;
-- the arguments' names are API
SELECT idempotency.fingerprint(request => '{"a":1,"b":2}', exclude => '{$.a}') =
       idempotency.fingerprint('{"b":2}') AS fingerprint,
       idempotency.canonical(value => '[1.0]') = '[1]' AS canonical;

--
-- Refusals.  No message may show any part of the request.
--
SELECT canonical_test.refusal('[object Object]');
SELECT canonical_test.refusal(E' \n[object Object]\t');
SELECT canonical_test.refusal('{"secret":1,"secret":1}');
SELECT canonical_test.refusal('[{"a":{"secret":1,"b":2,"secr\u0065t":1}}]');
SELECT canonical_test.refusal('{"":1,"":1}');
SELECT canonical_test.refusal('["secret\ud83d"]');
SELECT canonical_test.refusal('["secret\ude00"]');
SELECT canonical_test.refusal('["\ud83d\ud83d secret"]');
SELECT canonical_test.refusal('{"\ud83d secret":1}');
SELECT canonical_test.refusal('["secret\u0000"]');
SELECT canonical_test.refusal('[1e2147483648]');
SELECT canonical_test.refusal('[1e-2147483650]');
SELECT canonical_test.refusal('[12e2147483647]');
SELECT canonical_test.refusal('[-1e99999999999999999999]');
SELECT canonical_test.refusal('[1e-99999999999999999999]');
-- nor by excluding the part, except that no number has to be written there
SELECT canonical_test.refusal('{"a":1,"a":2}', '{$.a}');
SELECT canonical_test.refusal('{"a":{"b":1,"b":2}}', '{$.a}');
SELECT canonical_test.refusal('{"a":"\ud83d"}', '{$.a}');
SELECT canonical_test.refusal('{"a":1e2147483648}', '{$.a}');
-- text that is not JSON may hold all of this
SELECT canonical_test.refusal('{"a":1,"a":1');
SELECT canonical_test.refusal('"\ud83d"');
SELECT canonical_test.refusal('[1e2147483648');
-- nesting is limited by the server's stack
SELECT split_part(canonical_test.refusal(repeat('[', 1000000)), ' ', 1);
SELECT split_part(canonical_test.refusal(repeat('{"a":', 1000000)), ' ', 1);
SELECT canonical_test.refusal(repeat('[', 1000) || repeat(']', 1000));

-- exclude paths
SELECT path, canonical_test.refusal('{}', ARRAY['$.good', path])
FROM unnest(ARRAY['$', '', 'a', '.a', 'a.b', '$a', '$.', '$..a', '$.a.', '$.a b', ' $.a', '$.a ',
    '$.a-b', '$.1', '$.**', '$[', '$[]', '$[ 1]', '$[-1]', '$[01]', '$[1', '$[1.5]', '$[2147483648]',
    '$[99999999999999999999]', '$[1:2]', '$[?(@.a)]', '$[a]', '$[''a]', '$["a'']', '$["a"', '$["a\"]',
    '$["a\n"]', '$["a\', '$."a"', '$[*', '$[*].', '$.a[]', 'lax $.a', NULL]) AS path;
SELECT canonical_test.refusal('{}', ARRAY['$[2147483647]', '$[0]', '$[10]']);
SELECT canonical_test.refusal('{}', '{{$.a},{$.b}}');
SELECT canonical_test.refusal('{}', '[5:6]={$.a,b}');
-- they are checked even if the request has no parts
SELECT canonical_test.refusal('hello', '{b}');

--
-- Large requests
--
SELECT idempotency.fingerprint('[' || string_agg('1', ',') || ']') =
       idempotency.fingerprint('[' || string_agg('1.0', ', ') || ']') AS elements
FROM generate_series(1, 100000);
SELECT idempotency.fingerprint('{' || string_agg(format('"k%s":%s', n, n), ',' ORDER BY n) || '}') =
       idempotency.fingerprint('{' || string_agg(format('"k%s":%s', n, n), ',' ORDER BY md5(n::text)) || '}') AS members
FROM generate_series(1, 50000) AS n;
SELECT idempotency.fingerprint('[' || repeat('1', 100000) || ']') <>
       idempotency.fingerprint('[' || repeat('1', 99999) || '2]') AS digits;

--
-- What the catalog says of them
--
SELECT proname, pg_get_function_arguments(oid) AS arguments, provolatile, proparallel, proisstrict,
       proacl IS NULL AS public, obj_description(oid, 'pg_proc') IS NOT NULL AS described
FROM pg_proc
WHERE pronamespace = 'idempotency'::regnamespace AND proname IN ('canonical', 'fingerprint')
ORDER BY proname;

SET client_min_messages = warning;
DROP SCHEMA canonical_test CASCADE;
