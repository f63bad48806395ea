// Products of tiles, by every thread for itself.

/// sums += A B for the tile's `height` rows of A and `width` columns of B.
fn multiply(thread: u32, a: Operand, height: u32, b: Operand, width: u32, inner: u32, triangle: u32, forgets: bool) {
  let rows = thread / 8u;
  let columns = thread % 8u;
  for (var l0 = 0u; l0 < inner; l0 += SIDE) {
    fillTiles(thread, a, height, b, width, inner, l0, forgets);
    workgroupBarrier();
    let count = min(SIDE, inner - l0);
    if (forgets && atomicLoad(&spoilt) == tiles) { multiplySpoilt(rows, columns, l0, count, triangle); }
    else { multiplyTiles(rows, columns, l0, count, triangle); }
  }
}
