/** The table of recurrent nets: each is a program (program.ts), run by `runNet` (run.ts). */
import { deltaLstm, deltaRnn, fastWeightMemory, recurrentDeltaNet } from './delta.ts'
import type { Net } from './program.ts'
import { ba2016, programmer, recurrentProgrammer } from './programmer.ts'
import { gru, lstm, vanillaRnn } from './recurrent.ts'
import { selfModifyingProgrammer, selfReferential } from './self-referential.ts'

/** A row of the table of recurrent nets: what it is called, where it comes from, and how its program is made. */
export interface NetRow {
  title: string
  /** The paper, and the equations in it. */
  source: string
  /** TeX. */
  equation: string
  /** Its program for heads that are D wide. */
  build(D: number): Net
}

const deltaLstmRow = (version: 1 | 2 | 3 | 4, rest: string): NetRow => ({
  title: `Delta LSTM, version ${version}`,
  source: version === 4 ? 'Irie 2021, section 3.2' : 'github.com/IDSIA/recurrent-fwp',
  equation: `i = \\sigma(z_i + s R_i),\\; o = \\sigma(z_o + s R_o),\\; c = i u + (1 - i) c,\\; ${rest}`,
  build: (D) => deltaLstm({ K: D, V: D, version }),
})

/** Every net, by name. */
export const nets = {
  'delta-rnn': {
    title: 'Delta RNN',
    source: 'Irie 2021, section 3.2',
    equation:
      'R_t = R_{t-1} + \\bar k_t (\\bar\\beta_t (\\bar v_t - \\bar k_t R_{t-1}))^\\top,\\quad h_t = q_t W_t + \\mathrm{softmax}(h_{t-1}) R_t',
    build: (D) => deltaRnn({ K: D, V: D }),
  },
  'delta-rnn-v1': {
    title: 'Delta RNN, version 1',
    source: 'github.com/IDSIA/recurrent-fwp',
    equation: 'h_t = \\mathrm{softmax}(q_t W_t + h_{t-1} R_t)',
    build: (D) => deltaRnn({ K: D, V: D, version: 1 }),
  },
  'delta-lstm-v1': deltaLstmRow(1, 'u = \\sigma(z_u + s R_u),\\; h = \\mathrm{softmax}(o c),\\; s = h_{t-1}'),
  'delta-lstm-v2': deltaLstmRow(2, 'u = \\sigma(z_u + s R_u),\\; h = o c,\\; s = \\mathrm{softmax}(h_{t-1})'),
  'delta-lstm-v3': deltaLstmRow(3, 'u = \\sigma(z_u + s R_u),\\; h = o c + z_u,\\; s = \\mathrm{softmax}(h_{t-1})'),
  'delta-lstm': deltaLstmRow(4, 'u = z_u + s R_u,\\; h = o c,\\; s = \\mathrm{softmax}(h_{t-1})'),
  'recurrent-delta': {
    title: 'Recurrent delta net (RDN)',
    source: 'Irie 2021, section 3.3',
    equation:
      '[q, k, v, \\beta]_t = x_t + \\tanh(y_{t-1}) R,\\quad W_t = W_{t-1} + k_t (\\beta_t (v_t - k_t W_{t-1}))^\\top,\\quad y_t = q_t W_t',
    build: (D) => recurrentDeltaNet({ K: D, V: D }),
  },
  fwm: {
    title: 'Fast weight memory (FWM)',
    source: 'Schlag 2021 (fast weight memory), eq. 4-6; github.com/ischlag/fast-weight-transformers',
    equation: "W' = W_{t-1} + k_t (\\sigma(\\beta_t) (v_t - k_t W_{t-1}))^\\top,\\quad W_t = W' / \\max(\\|W'\\|, 1),\\quad y_t = q_t W_t",
    build: (D) => fastWeightMemory({ K: D, V: D }),
  },
  srwm: {
    title: 'Self-referential weight matrix (SRWM)',
    source: 'Irie 2022, eq. 5-8',
    equation: '[y, q, k, \\beta]_t = x_t W_{t-1},\\quad W_t = W_{t-1} + \\beta_t k_t (q_t W_{t-1} - k_t W_{t-1})^\\top',
    build: (D) => selfReferential({ D }),
  },
  smfwp: {
    title: 'Self-modifying fast weight programmer (SMFWP)',
    source: 'github.com/IDSIA/modern-srwm',
    equation: "[q', k', v', \\beta'] = x_t W_y,\\quad F_t = F_{t-1} + k' (\\beta' (v' - k' F_{t-1}))^\\top,\\quad y_t = q' F_t",
    build: (D) => selfModifyingProgrammer({ D }),
  },
  ba: {
    title: 'Fast weights that attend to the recent past',
    source: 'Ba 2016, eq. 1-2',
    equation: 'A_t = \\lambda A_{t-1} + \\eta h_t h_t^\\top,\\quad h_{s+1} = f(\\mathrm{LN}(h_{t-1} W + x_t + h_s A_{t-1}))',
    build: (D) => ba2016({ D }),
  },
  programmer: {
    title: 'Fast weight programmer',
    source: 'Schmidhuber 1991',
    equation: 'W_t = \\sigma(W_{t-1} + a_t b_t^\\top),\\quad y_t = x_t W_t',
    build: (D) => programmer({ K: D, V: D }),
  },
  'recurrent-programmer': {
    title: 'Recurrent fast weight programmer',
    source: 'Schmidhuber 1993, eq. 3-4',
    equation: 'y_{t+1} = f([x_t, y_t] W_t),\\quad W_{t+1} = \\sigma(W_t + g([x_t, y_t])\\, h(y_{t+1})^\\top)',
    build: (D) => recurrentProgrammer({ X: D, D }),
  },
  rnn: { title: 'Vanilla RNN', source: 'Elman 1990', equation: 'h_t = \\tanh(x_t + h_{t-1} R)', build: (D) => vanillaRnn({ D }) },
  irnn: {
    title: 'IRNN',
    source: 'Le 2015',
    equation: 'h_t = \\mathrm{relu}(x_t + h_{t-1} R),\\quad R_0 = I',
    build: (D) => vanillaRnn({ D, activation: 'relu' }),
  },
  lstm: {
    title: 'LSTM',
    source: 'Hochreiter & Schmidhuber 1997; Gers 2000',
    equation: '[i, f, g, o] = x_t + h_{t-1} R,\\quad c_t = \\sigma(f) c_{t-1} + \\sigma(i) \\tanh(g),\\quad h_t = \\sigma(o) \\tanh(c_t)',
    build: (D) => lstm({ D }),
  },
  gru: {
    title: 'GRU',
    source: 'Cho 2014',
    equation: 'h_t = n_t + \\sigma(z_t) (h_{t-1} - n_t),\\quad n_t = \\tanh(x_n + \\sigma(r_t) (h_{t-1} R_n))',
    build: (D) => gru({ D }),
  },
} as const satisfies Record<string, NetRow>
/** The name of a recurrent net: a key of `nets`. */
export type NetName = keyof typeof nets
