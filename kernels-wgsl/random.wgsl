// Counter-based random numbers: threefry2x32 with 20 rounds (Salmon et al. 2011). Element i depends on the key and i alone: the same bits as on
// every other device. PER_GROUP elements a workgroup. Pinned by test/ops/random.test.ts.

struct Params {
  n: u32,
  key0: u32,
  key1: u32,
  a: f32,
  b: f32,
  threshold: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;

fn mix(s: vec2<u32>, by: u32) -> vec2<u32> {
  let first = s.x + s.y;
  return vec2(first, ((s.y << by) | (s.y >> (32u - by))) ^ first);
}

/// Both words for the counter (i, 0).
fn threefry(i: u32) -> vec2<u32> {
  var s = vec2(i + p.key0, p.key1);
  // Five times four rounds; after each the words of the key, which take turns.
  var words = vec3(p.key1, 0x1bd11bdau ^ p.key0 ^ p.key1, p.key0);
  for (var turn = 1u; turn <= 5u; turn++) {
    if ((turn & 1u) == 1u) { s = mix(mix(mix(mix(s, 13u), 15u), 26u), 6u); } else { s = mix(mix(mix(mix(s, 17u), 29u), 16u), 24u); }
    s += vec2(words.x, words.y + turn);
    words = words.yzx;
  }
  return s;
}

const STEP = 5.9604644775390625e-8; // 2^-24

// y[i] = a + b u, u = (x0 >> 8) 2^-24
@compute @workgroup_size(THREADS) fn uniformNumbers(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) { y[i] = p.a + p.b * (f32(threefry(i).x >> 8u) * STEP); }
}

// y[i] = a + b sqrt(-2 ln u1) cos(2 pi u2), u1 = ((x0 >> 8) + 1) 2^-24, u2 = (x1 >> 8) 2^-24 (Box & Muller 1958). In quarter turns the integer
// nearest is the quadrant, and what is left, at most 1/2, is exact.
@compute @workgroup_size(THREADS) fn normalNumbers(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let words = threefry(i) >> vec2(8u);
    let radius = sqrtOf(-2.0 * logOf(f32(words.x + 1u) * STEP));
    let turns = f32(words.y) * (4.0 * STEP);
    let quadrant = round(turns);
    y[i] = p.a + p.b * (radius * sineOfReduced((turns - quadrant) * 1.57079633, i32(quadrant), 1));
  }
}

// y[i] = (x0 >> 8) < threshold ? 0 : b x[i]
@compute @workgroup_size(THREADS) fn dropout(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) { y[i] = select(p.b * x[i], 0.0, (threefry(i).x >> 8u) < p.threshold); }
}
