// How direct.pointwise packs: rows one after the other, panels term after term, in C.

template <class C>
inline std::int64_t padded_row(std::int64_t terms) {
  return round_up(terms, std::int64_t{kLanes<C>}) + kLanes<C>;
}

// packed[r * padded_row(terms) + k] = from[r * row_step + k * term_step]
template <class T>
inline void pack_rows(const T* from, std::int64_t row_step, std::int64_t term_step,
                      std::int64_t rows, std::int64_t terms, Compute<T>* packed) {
  using C = Compute<T>;
  const std::int64_t pitch = padded_row<C>(terms);
  if (row_step == 1 && term_step != 1)
    return transpose_matrix(from, term_step, terms, rows, packed, pitch);
  for (std::int64_t r = 0; r < rows; ++r, from += row_step, packed += pitch) {
    if (term_step == 1) {
      for (std::int64_t k = 0; k < terms; k += kLanes<C>) {
        const auto mask = mask_between<C>(0, terms - k);
        store(packed + k, load_masked(from + k, mask));
      }
    } else {
      for (std::int64_t k = 0; k < terms; ++k) packed[k] = to_compute(from[k * term_step]);
    }
  }
}

// packed[k * pitch + lane] = from[lane * lane_step + k * term_step] for one vector of lanes; those
// that do not exist become zero, as what lay there might be slow to multiply.
template <class T>
inline void pack_vector(const T* from, std::int64_t lane_step, std::int64_t term_step,
                        std::int64_t lanes, std::int64_t terms, Compute<T>* packed,
                        std::int64_t pitch) {
  using C = Compute<T>;
  constexpr std::int64_t L = kLanes<C>;
  if (lane_step == 1) {
    const auto mask = mask_between<C>(0, lanes);
    for (std::int64_t k = 0; k < terms; ++k, from += term_step, packed += pitch)
      store(packed, load_masked(from, mask));
  } else if (term_step == 1) {
    for (std::int64_t k = 0; k < terms; k += L)
      transpose_to_planes(from + k, lane_step, 0, lanes, terms - k, packed + k * pitch, pitch);
  } else {
    for (std::int64_t k = 0; k < terms; ++k, from += term_step, packed += pitch) {
      for (std::int64_t i = 0; i < L; ++i)
        packed[i] = i < lanes ? to_compute(from[i * lane_step]) : C(0);
    }
  }
}

// The same for all vectors of a panel, where they adjoin: term by term, since terms may lie pages
// apart.
template <class T>
inline void pack_adjoining(const T* from, std::int64_t term_step, std::int64_t lanes,
                           std::int64_t terms, Compute<T>* packed) {
  using C = Compute<T>;
  const std::int64_t whole = lanes / kLanes<C> * kLanes<C>;
  const auto tail = mask_between<C>(0, lanes - whole);
  for (std::int64_t k = 0; k < terms; ++k, from += term_step) {
    for (std::int64_t lane = 0; lane < whole; lane += kLanes<C>, packed += kLanes<C>)
      store(packed, load(from + lane));
    if (whole < lanes) {
      store(packed, load_masked(from + whole, tail));
      packed += kLanes<C>;
    }
  }
}

// Panels one after the other, each term after term.
template <class T>
inline void pack_panels(const T* from, std::int64_t lane_step, std::int64_t term_step,
                        std::int64_t lanes, std::int64_t terms, Compute<T>* packed) {
  using C = Compute<T>;
  const auto panels = VectorParts<C>::panels(lanes);
  for (std::int64_t i = 0; i < panels.count(); ++i) {
    const std::int64_t first = panels.first(i), size = panels.size(i);
    const std::int64_t pitch = round_up(size, std::int64_t{kLanes<C>});
    if constexpr (kVectorBytes < 64) {
      if (lane_step == 1) {
        pack_adjoining(from + first, term_step, size, terms, packed + first * terms);
        continue;
      }
    }
    for (std::int64_t lane = 0; lane < size; lane += kLanes<C>)
      pack_vector(from + (first + lane) * lane_step, lane_step, term_step, size - lane, terms,
                  packed + first * terms + lane, pitch);
  }
}
