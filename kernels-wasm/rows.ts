/**
 * Where row number `row` of a strided array begins. `axes` describes the axes outside the row, outermost first, as int32 triples
 * (size, stride of the first operand, stride of the second); column 1 or 2 picks the operand. In elements.
 */
export function rowOffset(row: i32, rank: i32, axes: usize, column: usize): i32 {
  let offset = 0
  for (let axis = axes + <usize>rank * 12; axis > axes;) {
    axis -= 12
    const size = load<i32>(axis)
    const rest = row / size
    offset += (row - rest * size) * load<i32>(axis + (column << 2))
    row = rest
  }
  return offset
}
