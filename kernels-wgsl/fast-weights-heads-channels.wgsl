// fast-weights-heads.wgsl, with fast-weights-heads-fading.wgsl, where each channel has a decay of its own, which `decays` of fast-weights.wgsl has put in
// `channelDecays`. What is there of whole tokens is of padding and beginnings alone.
//
// D_ij is a product of decays, from one token to the next. A thread has the pairs of four tokens i and four j, two blocks: keys are taken to the end of their own
// block, over the blocks between, whose products are a table in pairsM, and token by token through the block of i. So no pair needs a product of its own: half as
// many multiplications again as without decays, and none is divided by. Where tokens are the inner axis, a product goes along with the loop.
// Decays of SIDE tokens and SIDE channels lie in pairsP, which is free whenever they are needed, by slots of four as in tiles, but each of the four for itself: 16 kB
// hold it all, and neighbouring threads meet no bank twice.
// What a decay of 0 has forgotten may be anything, and a product of small ones may be 0, too. Only where a piece has small decays, a beginning or padding (`careful`) does
// a 0 take nothing, in loops of their own: a choice at each product takes longer than the product. These add up in copies that may be indexed, so that the sums of the
// other loops can stay in registers.

const CHANNELS = true;
const BLOCKS = 8u; // of four tokens in a piece

var<private> careful: bool;

fn beginPiece(its: Piece) { careful = bitsOf(its, SHARP) != 0u || bitsOf(its, QUERY) != ALL >> (32u - its.n); }
/// Of the backward, which has no array left for it: where its gradient will be.
fn erasing(at: u32) -> f32 { return work[p.dA + at]; }

/// `joint` of each.
fn jointEach(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  let x = bitcast<vec4<u32>>(a);
  let y = bitcast<vec4<u32>>(b);
  let takenA = x & select(vec4(0xffffffffu), vec4<u32>(), (y << vec4(1u)) == vec4<u32>());
  let takenB = y & select(vec4(0xffffffffu), vec4<u32>(), (x << vec4(1u)) == vec4<u32>());
  return bitcast<vec4<f32>>(takenA) * bitcast<vec4<f32>>(takenB);
}

fn decaysAt(slot: u32) -> vec4<f32> { return vec4(pairsP[slot], pairsP[256u + slot], pairsP[512u + slot], pairsP[768u + slot]); }
/// The product of the decays of the slots [begin, end).
fn overBlocks(begin: u32, end: u32) -> f32 {
  var d = 1.0;
  for (var slot = begin; slot < end; slot++) {
    let w = decaysAt(slot);
    if (careful) { d = joint(joint(joint(joint(d, w.x), w.y), w.z), w.w); }
    else { d = d * w.x * w.y * w.z * w.w; }
  }
  return d;
}

/// Decays of a piece and SIDE channels: a slot is four tokens of a channel, or, with `along`, four channels of a token. 1 outside.
fn stageDecays(thread: u32, its: Piece, i0: u32, height: u32, along: bool) {
  for (var e = thread; e < 256u; e += THREADS) {
    let slot = slotOf(e, !along);
    for (var c = 0u; c < 4u; c++) {
      let across = slot % 8u * 4u + c;
      let t = select(across, slot / 8u, along);
      let i = select(slot / 8u, across, along);
      var w = 1.0;
      if (t < its.n && i < height) { w = channelDecays[(its.first + t * p.H) * p.K + i0 + i]; }
      pairsP[c * 256u + slot] = w;
    }
  }
}
fn stageAlong(thread: u32, its: Piece, i0: u32, height: u32) {
  workgroupBarrier();
  stageDecays(thread, its, i0, height, true);
}

const BETWEEN = 21u; // pairs of blocks that have others between them; odd, so that channels meet no bank twice
/// The place of what is between block `earlier` and block `later`, two or more further on.
fn between(earlier: u32, later: u32) -> u32 { return (later - 2u) * (later - 1u) / 2u + earlier; }

/// Decays for rows of tokens; with `forPairs` also, in pairsM, the products between blocks.
fn stageAcross(thread: u32, its: Piece, i0: u32, height: u32, forPairs: bool) {
  stageDecays(thread, its, i0, height, false);
  if (!forPairs) { return; }
  workgroupBarrier();
  for (var e = thread; e < 256u; e += THREADS) {
    let earlier = e % BLOCKS;
    var d = 1.0;
    for (var later = earlier + 2u; later < BLOCKS; later++) {
      d = joint(d, overBlocks(e - earlier + later - 1u, e - earlier + later));
      pairsM[e / BLOCKS * BETWEEN + between(earlier, later)] = d;
    }
  }
}

/// A tile of rows of tokens, which has been staged, times decays: Gamma_i (QUERY), Gamma_{i-1} (READER), D_nj (WRITTEN).
fn fadeRows(thread: u32, tile: u32, which: u32) {
  workgroupBarrier();
  for (var e = thread; e < 256u; e += THREADS) {
    let block = e % BLOCKS;
    let first = e - block;
    let w = decaysAt(e);
    let d = overBlocks(first + select(0u, block + 1u, which == WRITTEN), first + select(block, BLOCKS, which == WRITTEN));
    var by: vec4<f32>;
    if (which == WRITTEN) {
      by.w = d;
      by.z = joint(by.w, w.w);
      by.y = joint(by.z, w.z);
      by.x = joint(by.y, w.y);
    } else {
      by.x = d;
      by.y = joint(by.x, w.x);
      by.z = joint(by.y, w.y);
      by.w = joint(by.z, w.z);
      if (which == QUERY) { by = jointEach(by, w); }
    }
    staged[tile + e] = vec4<Half>(jointEach(by, vec4<f32>(staged[tile + e])));
  }
}

/// What decays between a key of block `earlier`, each of the four, and the beginning of block `later`, in channel l.
fn overTo(l: u32, earlier: u32, later: u32) -> vec4<f32> {
  let w = decaysAt(l * BLOCKS + earlier);
  var d = 1.0;
  if (later > earlier + 1u) { d = pairsM[l * BETWEEN + between(earlier, later)]; }
  if (careful) { return jointEach(vec4(joint(joint(w.w, w.z), w.y), joint(w.w, w.z), w.w, 1.0), vec4(d)); }
  return d * vec4(w.w * w.z * w.y, w.w * w.z, w.w, 1.0);
}

/// sums += a_i . D_ij k_j over a tile of channels, or with `before` D_{i-1,j}: of A in tile `a`, keys in the first one. With `keysToo` also += k_i . D_ij k_j.
fn addPairs(sums: ptr<function, Sums>, ofKeys: ptr<function, Sums>, thread: u32, a: u32, height: u32, before: bool, keysToo: bool) {
  let later = thread / BLOCKS;
  let earlier = thread % BLOCKS;
  let same = earlier == later;
  if (earlier > later) { return; }
  if (careful) {
    var all = *sums;
    var also = *ofKeys;
    for (var l = 0u; l < height; l++) {
      let w = decaysAt(l * BLOCKS + later);
      let x = vec4<f32>(staged[a + l * BLOCKS + later]);
      let z = vec4<f32>(staged[l * BLOCKS + later]);
      let k = vec4<f32>(staged[l * BLOCKS + earlier]);
      var y = jointEach(overTo(l, earlier, later), select(k, vec4<f32>(), same));
      for (var r = 0u; r < min(4u, p.rows); r++) {
        let was = y;
        y = jointEach(vec4(w[r]), y);
        if (same) { y[r] = k[r]; }
        let met = select(y, was, before);
        all[r] += jointEach(vec4(x[r]), met);
        if (keysToo) { also[r] += jointEach(vec4(z[r]), met); }
      }
    }
    *sums = all;
    *ofKeys = also;
    return;
  }
  for (var l = 0u; l < height; l++) {
    let w = decaysAt(l * BLOCKS + later);
    let k = vec4<f32>(staged[l * BLOCKS + earlier]);
    let own = select(vec4<f32>(), k, same);
    let y = overTo(l, earlier, later) * select(k, vec4<f32>(), same);
    let y0 = w.x * y + vec4(own.x, 0.0, 0.0, 0.0);
    let y1 = w.y * y0 + vec4(0.0, own.y, 0.0, 0.0);
    let y2 = w.z * y1 + vec4(0.0, 0.0, own.z, 0.0);
    let y3 = w.w * y2 + vec4(0.0, 0.0, 0.0, own.w);
    let x = vec4<f32>(staged[a + l * BLOCKS + later]);
    (*sums)[0] += x.x * select(y0, y, before);
    (*sums)[1] += x.y * select(y1, y0, before);
    (*sums)[2] += x.z * select(y2, y1, before);
    (*sums)[3] += x.w * select(y3, y2, before);
    if (!keysToo) { continue; }
    let z = vec4<f32>(staged[l * BLOCKS + later]);
    (*ofKeys)[0] += z.x * y0;
    (*ofKeys)[1] += z.y * y1;
    (*ofKeys)[2] += z.z * y2;
    (*ofKeys)[3] += z.w * y3;
  }
}

/// Rows of tokens, which have decayed, times a state.
fn addMet(sums: ptr<function, Sums>, thread: u32, a: u32, b: u32, count: u32, weights: vec4<f32>) {
  if (careful) { addSome(sums, thread, a, b, 0u, count, WEIGHTS_A, ALL, weights); }
  else { add(sums, thread, a, b, count); }
}
fn addRead(sums: ptr<function, Sums>, thread: u32, a: u32, b: u32, count: u32, weights: vec4<f32>) { addMet(sums, thread, a, b, count, weights); }

/// The product of the decays of the tokens [begin, end), of a thread's four channels.
fn fadedOver(thread: u32, begin: u32, end: u32) -> vec4<f32> {
  var d = vec4(1.0);
  for (var t = begin; t < end; t++) { d = jointEach(d, decaysAt(t * BLOCKS + thread / 8u)); }
  return d;
}

/// sums += A B over the tokens [begin, end) that are in `tokens`, each of A times its decays (`how`): from the first one up to its own (QUERY) or that before (READER), or
/// from the one after to the last (WRITTEN). Gives the product of all.
fn addThrough(sums: ptr<function, Sums>, thread: u32, a: u32, b: u32, begin: u32, end: u32, tokens: u32, how: u32) -> vec4<f32> {
  var d = vec4(1.0);
  if (careful) {
    var all = *sums;
    for (var s = begin; s < end; s++) {
      let t = select(s, begin + end - 1u - s, how == WRITTEN);
      let was = d;
      d = jointEach(d, decaysAt(t * BLOCKS + thread / 8u));
      if (!isIn(tokens, t)) { continue; }
      let x = jointEach(select(was, d, how == QUERY), vec4<f32>(staged[a + t * 8u + thread / 8u]));
      let y = vec4<f32>(staged[b + t * 8u + thread % 8u]);
      for (var r = 0u; r < min(4u, p.K); r++) { all[r] += fadedFour(x[r], y); }
    }
    *sums = all;
    return d;
  }
  for (var s = begin; s < end; s++) {
    let t = select(s, begin + end - 1u - s, how == WRITTEN);
    let was = d;
    d *= decaysAt(t * BLOCKS + thread / 8u);
    let x = select(was, d, how == QUERY) * vec4<f32>(staged[a + t * 8u + thread / 8u]);
    let y = vec4<f32>(staged[b + t * 8u + thread % 8u]);
    (*sums)[0] += x.x * y;
    (*sums)[1] += x.y * y;
    (*sums)[2] += x.z * y;
    (*sums)[3] += x.w * y;
  }
  return d;
}
/// What of a state is left. Where nothing decays, its bits: a product may lose those of a denormal or of NaN.
fn stays(left: f32, x: f32) -> f32 {
  if (bitcast<u32>(left) == 0x3f800000u) { return x; }
  return joint(left, x);
}

// ---- backward: what pairs of tokens bring each other, and their decays ------------------------------------------------------------------
//
// A thread has four tokens, a block, and four channels. What lies between it and a token of another block, a product of decays, goes along as it goes through
// those, away from its own block. Then it's taken through its own: by what comes from outside and from each pair in it, decays of the block's tokens are crossed, and by
// what has come from an earlier block those of whole blocks between. They get what has crossed them: that is added up, nothing is subtracted.

/// Entry (i,j) of a triangle in pairsM: of four i, or j, side by side.
fn pairAt(i: u32, j: u32, strict: bool) -> f32 { return pairsM[select(j * SIDE + i, i * SIDE + j, strict)]; }

/// The place of what the tokens of block `later` have from before block `over`, in the first tile.
fn crossing(over: u32, later: u32, group: u32) -> u32 { return (later * (later - 1u) / 2u + over) * BLOCKS + group; }

/// Adds to `sums` what a thread's tokens have from the later ones' rows (of queries or readers, in the other tile), up to the end of its block. `before`: a reader doesn't
/// meet its own decay. Gives the product of the decays in between.
fn gatherLater(sums: ptr<function, Sums>, thread: u32, n: u32, strict: bool, before: bool) -> vec4<f32> {
  let first = thread / 8u * 4u;
  var d = vec4(1.0);
  if (careful) {
    var all = *sums;
    for (var t = first + 4u; t < n; t++) {
      let was = d;
      d = jointEach(d, decaysAt(t * BLOCKS + thread % 8u));
      let y = jointEach(select(d, was, before), vec4<f32>(staged[OTHER + t * 8u + thread % 8u]));
      for (var r = 0u; r < min(4u, p.rows); r++) { all[r] += jointEach(vec4(pairAt(t, first + r, strict)), y); }
    }
    *sums = all;
    return d;
  }
  for (var t = first + 4u; t < n; t++) {
    let was = d;
    d *= decaysAt(t * BLOCKS + thread % 8u);
    let y = select(d, was, before) * vec4<f32>(staged[OTHER + t * 8u + thread % 8u]);
    (*sums)[0] += pairAt(t, first, strict) * y;
    (*sums)[1] += pairAt(t, first + 1u, strict) * y;
    (*sums)[2] += pairAt(t, first + 2u, strict) * y;
    (*sums)[3] += pairAt(t, first + 3u, strict) * y;
  }
  return d;
}

/// The same from the earlier ones' keys (in the other tile), up to the beginning of its block. What of these crosses whole blocks is noted: times `rows`, of queries or
/// readers that have met the decays in the block.
fn gatherEarlier(sums: ptr<function, Sums>, thread: u32, its: Piece, strict: bool, rows: ptr<function, Sums>) -> vec4<f32> {
  let block = thread / 8u;
  let own = cornerOf(thread, its.n, SIDE);
  var d = vec4(1.0);
  var all = Sums();
  var crossed = vec4<f32>();
  for (var t = block * 4u; own.height > 0u && t > 0u; ) {
    t--;
    let slot = t * 8u + thread % 8u;
    let beta = strength(its, t);
    var z = vec4<f32>();
    if (careful) {
      let y = jointEach(d, beta * vec4<f32>(staged[OTHER + slot]));
      for (var r = 0u; r < own.height; r++) {
        let x = vec4(pairAt(own.row + r, t, strict));
        all[r] += jointEach(x, y);
        z += jointEach(x, (*rows)[r]);
      }
      z = jointEach(y, z);
      d = jointEach(d, decaysAt(slot));
    } else {
      let y = beta * d * vec4<f32>(staged[OTHER + slot]);
      // What there may be of rows beyond the piece is no number.
      let at = vec4(pairAt(own.row, t, strict), pairAt(own.row + 1u, t, strict), pairAt(own.row + 2u, t, strict), pairAt(own.row + 3u, t, strict));
      let x = select(vec4<f32>(), at, vec4(0u, 1u, 2u, 3u) < vec4(own.height));
      (*sums)[0] += x.x * y;
      (*sums)[1] += x.y * y;
      (*sums)[2] += x.z * y;
      (*sums)[3] += x.w * y;
      z = y * (x.x * (*rows)[0] + x.y * (*rows)[1] + x.z * (*rows)[2] + x.w * (*rows)[3]);
      d *= decaysAt(slot);
    }
    if (t / 4u + 1u >= block) { continue; }
    crossed += z;
    if (t % 4u == 0u) {
      let at = crossing(t / 4u + 1u, block, thread % 8u);
      if (strict) { crossed += vec4<f32>(staged[at]); }
      staged[at] = vec4<Half>(crossed);
      crossed = vec4<f32>();
    }
  }
  for (var r = 0u; careful && r < own.height; r++) { (*sums)[r] += all[r]; }
  return d;
}

/// With queries in the other tile, or then readers.
fn fromLater(thread: u32, its: Piece, ofReaders: bool, later: ptr<function, Later>) {
  var rows: Sums;
  for (var r = 0u; r < 4u; r++) { rows[r] = vec4<f32>(staged[OTHER + (thread / 8u * 4u + r) * 8u + thread % 8u]); }
  if (ofReaders) { (*later).readers = rows; }
  else {
    (*later).queries = rows;
    (*later).sums = Sums();
  }
  var sums = (*later).sums;
  (*later).d = gatherLater(&sums, thread, its.n, ofReaders, ofReaders && p.reads == ERASE);
  (*later).sums = sums;
}

/// After what comes of the states (dQ, dA and dK, without the decays of channels; `left` and `ofStates`: what is left of the state, and what that is worth, in four channels
/// of the state's tile): what decays leave of that, what comes of pairs, and the gradient of the decays. With beta, keys are in the other tile.
fn pairsBack(
  thread: u32,
  its: Piece,
  i0: u32,
  height: u32,
  left: vec4<f32>,
  ofStates: vec4<f32>,
  later: ptr<function, Later>,
  dQ: ptr<function, Sums>,
  dA: ptr<function, Sums>,
  dK: ptr<function, Sums>,
) {
  let keys = its.first * p.K + i0;
  let nextK = p.H * p.K;
  let block = thread / BLOCKS;
  let group = thread % BLOCKS;
  let own = cornerOf(thread, its.n, height);
  let first = block * 4u;
  var dw = Sums();
  workgroupBarrier();
  if (p.reads != BETA) {
    stage(thread, OTHER, Side(KEYS, keys, 1u, nextK, height, its.n), 1.0);
    workgroupBarrier();
  }

  // From earlier blocks, the state and this block to queries and readers; and to keys, in the block.
  var here = Sums();
  for (var kind = 0u; kind < select(1u, 2u, p.reads != 0u); kind++) {
    let strict = kind == 1u;
    let before = strict && p.reads == ERASE;
    let last = select(1u, 0u, before); // whether a token's own decay is one that it meets
    var sums = *dQ;
    var rows = (*later).queries;
    if (strict) {
      sums = *dA;
      rows = (*later).readers;
    }
    var decays = Sums();
    var fadedRows = Sums();
    var d = vec4(1.0);
    for (var r = 0u; r < own.height; r++) {
      let was = d;
      d = jointEach(d, decaysAt((first + r) * 8u + group));
      decays[r] = select(d, was, before);
      fadedRows[r] = jointEach(decays[r], rows[r]);
    }
    var earlier = Sums();
    let fromState = gatherEarlier(&earlier, thread, its, strict, &fadedRows);
    var crossed = vec4<f32>();
    for (var r = 0u; r < own.height; r++) {
      let ofState = jointEach(fromState, sums[r]);
      crossed += jointEach(fadedRows[r], ofState);
      let outside = earlier[r] + ofState;
      let meets = jointEach(fadedRows[r], outside);
      for (var t = 0u; t < r + last; t++) { dw[t] += meets; }
      sums[r] = jointEach(decays[r], outside);
      d = vec4(1.0);
      for (var c = kind; c <= r; c++) {
        let j = r - c;
        if (c > kind || (strict && !before)) { d = jointEach(d, decaysAt((first + j + 1u) * 8u + group)); }
        let beta = strength(its, first + j);
        let pair = pairAt(first + r, first + j, strict);
        let k = vec4<f32>(staged[OTHER + (first + j) * 8u + group]);
        sums[r] += jointEach(vec4(faded(pair, beta)), jointEach(d, k));
        let dk = jointEach(vec4(pair), jointEach(d, rows[r]));
        here[j] += dk;
        let meets = jointEach(k, jointEach(vec4(beta), dk));
        for (var t = j + 1u; t < r + last; t++) { dw[t] += meets; }
      }
    }
    if (block > 0u) {
      if (strict) { crossed += vec4<f32>(staged[crossing(0u, block, group)]); }
      staged[crossing(0u, block, group)] = vec4<Half>(crossed);
    }
    if (strict) { *dA = sums; }
    else { *dQ = sums; }
  }

  // From later blocks and the state after the piece to keys, through this block.
  var written = vec4<f32>();
  var d = vec4(1.0);
  for (var c = own.height; c > 0u; c--) {
    let j = c - 1u;
    let at = (first + j) * 8u + group;
    let k = fadedFour(strength(its, first + j), jointEach(d, vec4<f32>(staged[OTHER + at])));
    let ofState = jointEach((*later).d, (*dK)[j]);
    written += jointEach(k, ofState);
    let outside = (*later).sums[j] + ofState;
    let meets = jointEach(k, outside);
    for (var t = c; t < own.height; t++) { dw[t] += meets; }
    (*dK)[j] = jointEach(d, outside) + here[j];
    d = jointEach(d, decaysAt(at));
  }

  // What crosses whole blocks.
  let gamma = factor(its, its.n - 1u, GAMMA);
  for (var over = 1u; over < block; over++) {
    staged[crossing(over, block, group)] += staged[crossing(over - 1u, block, group)];
  }
  workgroupBarrier();
  for (var c = 0u; c < 4u; c++) {
    pairsP[thread * 4u + c] = written[c];
    pairsP[256u + (block * 4u + c) * 8u + group] = faded(gamma, joint(left[c], ofStates[c]));
  }
  workgroupBarrier();
  var over = vec4<f32>();
  for (var b = block + 1u; b * 4u < its.n; b++) { over += vec4<f32>(staged[crossing(block, b, group)]); }
  for (var s = 0u; s < own.width; s++) {
    for (var b = 0u; b < block; b++) { over[s] += pairsP[(b * BLOCKS + group) * 4u + s]; }
    for (var b = 0u; b < 8u; b++) { over[s] += pairsP[256u + (group * 4u + s) * 8u + b]; }
  }
  for (var r = 0u; r < own.height; r++) {
    let there = factor(its, first + r, THERE);
    for (var s = 0u; s < own.width; s++) { channelDecays[keys + (first + r) * nextK + own.column + s] = faded(there, dw[r][s] + over[s]); }
  }
}
